"""The generation task: a class-conditional DDPM, its loss per sample on common draws.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,     r = eps_hat(x_t, t, y) - eps,     loss = mean over pixels of r^2

DDPM: Ho et al., NeurIPS 2020, arXiv:2006.11239, their simple loss; abar falls by the cosine of Nichol & Dhariwal,
ICML 2021, arXiv:2102.09672.

Timesteps and noise belong to the sample, the seed and the number of the draw (common_draws), so that two models, before
and after, unlearned and retrained, are compared on equal draws. Each step takes the next draw; what is measured takes
the same few, spread evenly over the timesteps. In steps a label is dropped now and then, for guidance when sampling.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from workers.architectures.ddpm import Ddpm
from workers.classification import evaluating
from workers.common_draws import normal, sample_keys, timesteps, uniform
from workers.samples import LabelledSet, normalise

STEPS = 1000
PREDICT_BATCH = 512
GUESS_LOSS = 1.0
"""The loss of a network that always answers 0: the mean of eps^2."""
Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
_OF_STEPS = 1 << 32
"""Draws of steps are numbered from here, those of measuring from 0: no loss is measured on a draw trained on."""


def schedule() -> DDPMScheduler:
    """Return the noise schedule."""
    return DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="squaredcos_cap_v2")


@dataclass(frozen=True)
class Diffusion:
    """Noise prediction by a Ddpm.

    A run that is to repeat begins with an object of its own, whose steps then take the same draws.
    """

    seed: int = 0
    label_dropout: float = 0.1
    measured_draws: int = 8
    steps: Iterator[int] = field(default_factory=lambda: count(_OF_STEPS), repr=False, compare=False)

    def outputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the residuals r (N, C, H, W) of the next draw, of the weights that are trained."""
        draw, keys = next(self.steps), sample_keys(images)
        kept = uniform(keys, seed=self.seed, draw=draw + _OF_STEPS) >= self.label_dropout
        given = torch.where(kept, labels, _ddpm(model).num_classes)
        t = timesteps(keys, steps=STEPS, seed=self.seed, draw=draw)
        return self._residuals(model, images, given, t, keys, draw)

    def loss_of_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002 - other tasks need the labels
        """Return the mean squared residual (N,)."""
        return outputs.square().flatten(1).mean(1)

    def per_sample_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,) on the next draw."""
        return self.loss_of_outputs(self.outputs(model, images, labels), labels)

    def measured_losses(self, model: nn.Module, samples: LabelledSet, batch_size: int = PREDICT_BATCH) -> Tensor:
        """Return the losses (N, draws), float32, of the average that samples are drawn by; without gradients.

        Column j has timesteps of the j-th of equal parts of the range.
        """
        with evaluating(model):
            rows = [
                torch.stack([self._measured(model, *batch, j) for j in range(self.measured_draws)], 1)
                for batch in zip(
                    torch.split(samples.images, batch_size), torch.split(samples.labels, batch_size), strict=True
                )
            ]
        return torch.cat(rows)

    def _measured(self, model: nn.Module, images: Tensor, labels: Tensor, draw: int) -> Tensor:
        keys = sample_keys(images)
        t = timesteps(keys, steps=STEPS, seed=self.seed, draw=draw, part=draw, parts=self.measured_draws)
        return self.loss_of_outputs(self._residuals(_ddpm(model).averaged, images, labels, t, keys, draw), labels)

    def _residuals(
        self, predict: Predictor, images: Tensor, labels: Tensor, t: Tensor, keys: Tensor, draw: int
    ) -> Tensor:
        noise = normal(keys, tuple(images.shape[1:]), seed=self.seed, draw=draw)
        kept = signal_shares(images.device)[t].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * normalise(images) + (1 - kept).sqrt() * noise
        return predict(noisy, t, labels) - noise


def signal_shares(device: torch.device) -> Tensor:
    """Return abar (STEPS,), float32."""
    shares: Tensor = schedule().alphas_cumprod
    return shares.to(device)


def _ddpm(model: nn.Module) -> Ddpm:
    if not isinstance(model, Ddpm):
        raise TypeError(f"a generation task works on a Ddpm, not on {type(model).__name__}")
    return model
