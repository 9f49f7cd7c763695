"""The classification task: how a network is applied to images and what its loss is.

Training, methods and metrics reach the loss through this object, so that another task can take its place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from workers.micro_batches import in_parts
from workers.samples import LabelledSet, normalise

PREDICT_BATCH = 512


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode without gradients, and restore each module's own mode after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class Classification:
    """Softmax classification with cross-entropy.

    `mixed`: products in steps are taken in bfloat16, while weights, gradients and logits stay float32. What is measured
    (`predict`), per-sample gradients and slopes of the input are in the network's own precision either way.
    """

    mixed: bool = False

    def inputs(self, images: Tensor) -> Tensor:
        """Return what the network is given for uint8 images (N, C, H, W)."""
        return normalise(images)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return logits (N, K) of uint8 images (N, C, H, W), in whatever mode the model is; in parts if need be."""
        return in_parts(lambda part: self._logits_at_once(model, part), model, images)

    def _logits_at_once(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.mixed):
            logits: Tensor = model(self.inputs(images))
        return logits.float() if self.mixed else logits

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,) in nats."""
        return cross_entropy(logits, labels, reduction="none")

    def per_sample_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,) in nats of uint8 images."""
        return self.loss_of_logits(self.logits(model, images), labels)

    def predict(self, model: nn.Module, samples: LabelledSet, batch_size: int = PREDICT_BATCH) -> Tensor:
        """Return logits (N, K) in eval mode without gradients; the model's modes are restored."""
        exact = replace(self, mixed=False) if self.mixed else self
        with evaluating(model):
            parts = [exact.logits(model, images) for images in torch.split(samples.images, batch_size)]
        return torch.cat(parts)

    def accuracy(self, logits: Tensor, labels: Tensor) -> float:
        """Return the share of rows whose largest logit is the label's; nan-free only for N > 0."""
        return float((logits.argmax(1) == labels).double().mean())


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    return next(model.parameters()).device


def placed(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move the network to the device; on CUDA its convolutions' weights are laid out channels-last."""
    moved = model.to(device)
    return moved.to(memory_format=torch.channels_last) if torch.device(device).type == "cuda" else moved
