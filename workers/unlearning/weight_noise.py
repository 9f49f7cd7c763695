"""Gaussian noise on the weights that carry features, and on nothing else. Shared by methods that perturb."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from workers.classification import device_of
from workers.reproducibility import derived_seed

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def feature_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the trainable parameters of two dimensions or more outside norm layers: no bias, no scale."""
    norms = {id(w) for module in model.modules() if isinstance(module, NORMS) for w in module.parameters()}
    return [w for w in model.parameters() if w.requires_grad and w.ndim >= 2 and id(w) not in norms]


def rms(w: Tensor) -> Tensor:
    """Return the root mean square of a tensor's values, a scalar tensor."""
    return w.square().mean().sqrt()


def noise_source(model: nn.Module, generator: torch.Generator) -> torch.Generator:
    """Return `generator`, or one on the model's device that is seeded from it: a draw per step must not travel."""
    device = device_of(model)
    return generator if device.type == "cpu" else torch.Generator(device).manual_seed(derived_seed(generator))


@torch.no_grad()
def noise_for(weights: Sequence[Tensor], s: float, source: torch.Generator) -> list[Tensor]:
    """Return s * rms(w) * xi per tensor, xi ~ N(0, I) drawn from `source`; s = 0 draws nothing and gives zeros."""
    if s == 0:
        return [torch.zeros_like(w) for w in weights]
    drawn = [torch.randn(w.shape, generator=source, device=source.device, dtype=w.dtype) for w in weights]
    return [s * rms(w) * xi.to(w.device) for w, xi in zip(weights, drawn, strict=True)]


@torch.no_grad()
def add_noise(weights: Sequence[Tensor], s: float, source: torch.Generator) -> None:
    """Add that noise to each tensor in place."""
    for w, noise in zip(weights, noise_for(weights, s, source), strict=True):
        w.add_(noise)
