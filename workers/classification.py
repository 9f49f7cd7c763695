"""The classification task: how a network is applied to images and what its loss is.

Training and methods reach the loss through this object as the Task it is; what needs logits reaches for it itself.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from workers.micro_batches import in_parts
from workers.samples import LabelledSet, normalise
from workers.task import Inputs, Margins, Measured, Network, Teacher

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
    views: int = field(default=1, init=False)
    margins: Margins = field(default=Margins(), init=False)
    generators: tuple[torch.Generator, ...] = field(default=(), init=False)

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

    def on_draws_of(self, seed: int) -> "Classification":  # noqa: ARG002
        """Return itself: nothing is drawn."""
        return self

    def view(self, model: nn.Module, images: Tensor, labels: Tensor, number: int) -> Inputs:  # noqa: ARG002
        """Return the images alone: nothing is drawn."""
        return (self.inputs(images),)

    def forward(self, network: Network, inputs: Inputs) -> Tensor:
        """Return logits (N, K)."""
        return network(*inputs)

    def outputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return logits (N, K)."""
        return self.logits(model, images)

    def loss_of_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,) in nats."""
        return self.loss_of_logits(outputs, labels)

    def taught_loss(self, model: nn.Module, given: LabelledSet, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the cross-entropy (N,) to the given labels."""
        return self.per_sample_loss(model, given.images, given.labels)

    def measured(self, model: nn.Module, samples: LabelledSet) -> Measured:
        """Measure cross-entropy and error; each error is lost."""
        logits = self.predict(model, samples)
        wrong = (logits.argmax(1) != samples.labels).double()
        return Measured(losses=self.loss_of_logits(logits, samples.labels).double(), wrong=wrong, lost=wrong)

    def guess_loss(self, outputs: Tensor) -> float:
        """Return log K."""
        return math.log(outputs.shape[1])

    def classes(self, model: nn.Module, example: LabelledSet) -> int:
        """Return how many logits the network gives."""
        return self.predict(model, example.take(torch.arange(1))).shape[1]

    def teacher(self, original: nn.Module, samples: LabelledSet, prepared: Tensor | None = None) -> Teacher:
        """Return a teacher that remembers its logits: it always sees the same images."""
        logits = self.predict(original, samples) if prepared is None else prepared

        def pair(student: nn.Module, batch: LabelledSet, index: Tensor) -> tuple[Tensor, Tensor]:
            return logits[index.to(logits.device)], self.logits(student, batch.images)

        return pair

    def distance(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        """Return T^2 KL(softmax(t/T) || softmax(s/T)) of logits."""
        T = temperature
        log_p, log_q = log_softmax(teacher / T, 1), log_softmax(student / T, 1)
        return T * T * (log_p.exp() * (log_p - log_q)).sum(1)

    def started_from(self, parent: nn.Module) -> nn.Module:
        """Return the parent."""
        return parent

    def finish(self, model: nn.Module) -> None:
        """Leave the model as it is: buffers of norm layers are the methods' concern."""


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter."""
    return next(model.parameters()).device


def placed(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Move the network to the device; on CUDA its convolutions' weights are laid out channels-last."""
    moved = model.to(device)
    return moved.to(memory_format=torch.channels_last) if torch.device(device).type == "cuda" else moved
