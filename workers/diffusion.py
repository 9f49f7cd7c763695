"""The generation task: a class-conditional DDPM, its loss per sample on common draws.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,     r = eps_hat(x_t, t, y) - eps,     loss = mean over pixels of r^2

DDPM: Ho et al., NeurIPS 2020, arXiv:2006.11239, their simple loss; abar falls by the cosine of Nichol & Dhariwal,
ICML 2021, arXiv:2102.09672.

Timesteps and noise belong to the sample, the seed and the number of the draw (common_draws), so that two models, before
and after, unlearned and retrained, are compared on equal draws. Each step takes another draw; what is measured takes
the same few, spread evenly over the timesteps. In steps a label is dropped now and then, for guidance when sampling.

For the methods, outputs are the residuals r. Between a teacher and a student on equal draws
    d = mean over pixels of (eps_hat_teacher - eps_hat_student)^2,
T^2 KL of two normals of these means and variance T^2 / 2 per pixel: the temperature drops out. A sample is taught
another class y' by having its own class predict what that class predicts, as SalUn does for diffusion
(arXiv:2310.12508, section 5): eps_hat(x_t, t, y) towards eps_hat(x_t, t, y'), which is held fixed.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from workers.architectures.ddpm import Ddpm
from workers.classification import evaluating
from workers.common_draws import normal, sample_keys, timesteps, uniform
from workers.micro_batches import in_parts
from workers.samples import LabelledSet, normalise
from workers.task import Inputs, Margins, Measured, Network, Teacher

STEPS = 1000
PREDICT_BATCH = 512
GUESS_LOSS = 1.0
"""The loss of a network that always answers 0: the mean of eps^2."""
MARGINS = Margins(known_factor=1.02, known_offset=0.0, above_reference=1.0, clear=0.004, too_far=1.1)
"""On equal draws losses vary little: on digits 0.154 for samples trained on, 0.161 for others (a guess: 1)."""
_OF_STEPS = 1 << 32
"""Draws of steps are numbered from here, those of measuring from 0: no loss is measured on a draw trained on."""
_ALL_DRAWS = 1 << 62


def schedule() -> Any:
    """Return the noise schedule, a DDPMScheduler."""
    # importing it takes seconds, which nothing but a diffusion model should wait for
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="squaredcos_cap_v2")


@dataclass(frozen=True)
class Diffusion:
    """Noise prediction by a Ddpm.

    A run that is to repeat begins with an object of its own, whose steps then take the same draws, or goes on with the
    state of `source`, their generator (CPU). `mixed` is as for classification.
    """

    seed: int = 0
    mixed: bool = False
    label_dropout: float = 0.1
    measured_draws: int = 8
    source: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0), repr=False, compare=False)

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """Return what the draws of steps are numbered by."""
        return (self.source,)

    @property
    def margins(self) -> Margins:
        """Return what losses on equal draws are told apart by."""
        return MARGINS

    @property
    def views(self) -> int:
        """Return how many draws a sample is measured on."""
        return self.measured_draws

    def on_draws_of(self, seed: int) -> "Diffusion":
        """Return the task that measures on the draws of that seed."""
        return replace(self, seed=seed)

    def view(self, model: nn.Module, images: Tensor, labels: Tensor, number: int) -> Inputs:  # noqa: ARG002
        """Return noisy images, timesteps in that one of equal parts of the range, labels, and the noise."""
        keys = sample_keys(images)
        t = timesteps(keys, steps=STEPS, seed=self.seed, draw=number, part=number, parts=self.measured_draws)
        return self._noised(images, labels, t, keys, number)

    def forward(self, network: Network, inputs: Inputs) -> Tensor:
        """Return the residuals (N, C, H, W)."""
        noisy, t, labels, noise = inputs
        return network(noisy, t, labels).to(noise.dtype) - noise

    def outputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the residuals of another draw, of the weights that are trained; in parts if need be."""
        return self._in_parts(_ddpm(model), model, self._drawn(_ddpm(model), images, labels))

    def loss_of_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002 - other tasks need the labels
        """Return the mean squared residual (N,)."""
        return outputs.square().flatten(1).mean(1)

    def per_sample_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,) on another draw."""
        return self.loss_of_outputs(self.outputs(model, images, labels), labels)

    def taught_loss(self, model: nn.Module, given: LabelledSet, labels: Tensor) -> Tensor:
        """Return the loss (N,), for samples given another class than their own against what that class predicts."""
        net, taught = _ddpm(model), given.labels != labels
        noisy, t, kept, noise = self._drawn(net, given.images, labels)
        target = noise.clone()
        if bool(taught.any()):
            as_given = (noisy[taught], t[taught], given.labels[taught], noise[taught])
            with evaluating(model):
                target[taught] += self._in_parts(net, model, as_given)
        inputs = (noisy, t, torch.where(taught, labels, kept), target)
        return self.loss_of_outputs(self._in_parts(net, model, inputs), labels)

    def measured(self, model: nn.Module, samples: LabelledSet) -> Measured:
        """Measure the average: a draw is wrong where the class helps no more than none; all of the noise can be lost.

        The share lost is the loss in units of a guess's: the share of the noise's variance that is left.
        """
        losses = self.measured_losses(model, samples).double()
        none = LabelledSet(images=samples.images, labels=torch.full_like(samples.labels, _ddpm(model).num_classes))
        without = self.measured_losses(model, none).double()
        wrong = (losses.mean(1) >= without.mean(1)).double()
        return Measured(losses=losses.mean(1), wrong=wrong, lost=losses.mean(1) / GUESS_LOSS)

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

    def guess_loss(self, outputs: Tensor) -> float:  # noqa: ARG002
        """Return 1, the loss of predicting no noise."""
        return GUESS_LOSS

    def classes(self, model: nn.Module, example: LabelledSet) -> int:  # noqa: ARG002
        """Return the classes that a sample can be drawn for."""
        return _ddpm(model).num_classes

    def teacher(self, original: nn.Module, samples: LabelledSet, prepared: Tensor | None = None) -> Teacher:  # noqa: ARG002
        """Return a copy that is asked anew on every draw that its student takes."""
        frozen = copy.deepcopy(_ddpm(original)).eval()

        def pair(student: nn.Module, batch: LabelledSet, index: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001
            inputs = self._drawn(_ddpm(student), batch.images, batch.labels)
            with evaluating(frozen):
                said = self._in_parts(frozen, frozen, inputs)
            return said, self._in_parts(_ddpm(student), student, inputs)

        return pair

    def distance(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:  # noqa: ARG002
        """Return the mean squared difference of the noise predicted."""
        return (teacher - student).square().flatten(1).mean(1)

    def started_from(self, parent: nn.Module) -> nn.Module:
        """Return a copy whose weights are the parent's average, and which begins a new one."""
        started = copy.deepcopy(_ddpm(parent)).eval()
        started.restart_average()
        return started

    def finish(self, model: nn.Module) -> None:
        """Have the average be the weights where the method took no step."""
        _ddpm(model).settle_average()

    def _drawn(self, net: Ddpm, images: Tensor, labels: Tensor) -> Inputs:
        """Return the inputs of another draw, with some labels dropped."""
        draw = _OF_STEPS + int(torch.randint(_ALL_DRAWS, (), generator=self.source))
        keys = sample_keys(images)
        kept = uniform(keys, seed=self.seed, draw=draw + _OF_STEPS) >= self.label_dropout
        t = timesteps(keys, steps=STEPS, seed=self.seed, draw=draw)
        return self._noised(images, torch.where(kept, labels, net.num_classes), t, keys, draw)

    def _measured(self, model: nn.Module, images: Tensor, labels: Tensor, number: int) -> Tensor:
        inputs = self.view(model, images, labels, number)
        return self.loss_of_outputs(self._in_parts(_ddpm(model).averaged, model, inputs), labels)

    def _in_parts(self, network: Network, model: nn.Module, inputs: Inputs) -> Tensor:
        def pass_through(rows: Tensor) -> Tensor:
            with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.mixed and torch.is_grad_enabled()):
                return self.forward(network, tuple(each[rows] for each in inputs))

        # the rows' places stand for the images, of which there are several tensors here
        return in_parts(pass_through, model, torch.arange(len(inputs[0]), device=inputs[0].device))

    def _noised(self, images: Tensor, labels: Tensor, t: Tensor, keys: Tensor, draw: int) -> Inputs:
        noise = normal(keys, tuple(images.shape[1:]), seed=self.seed, draw=draw)
        share = signal_shares(images.device)[t].view(-1, 1, 1, 1)
        return share.sqrt() * normalise(images) + (1 - share).sqrt() * noise, t, labels, noise


@cache
def signal_shares(device: torch.device) -> Tensor:
    """Return abar (STEPS,), float32; made once per device, and not to be changed."""
    shares: Tensor = schedule().alphas_cumprod
    return shares.to(device)


def _ddpm(model: nn.Module) -> Ddpm:
    if not isinstance(model, Ddpm):
        raise TypeError(f"a generation task works on a Ddpm, not on {type(model).__name__}")
    return model
