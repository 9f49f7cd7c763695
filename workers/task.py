"""What a network learns, as training and the methods see it: its outputs, its loss, and how they are measured.

What differs between tasks lives in the objects that keep this promise (classification, diffusion), never in a method.
Outputs are logits (N, K) for the one, residuals of the predicted noise (N, C, H, W) for the other: whatever is lowest
in the loss when the network is right, and what a student shares with a teacher. Methods that need logits ask for the
classification task by its type.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from workers.samples import LabelledSet

Inputs = tuple[Tensor, ...]
"""What a network is given, and what its answer is held against: tensors of N rows each."""
Network = Callable[..., Tensor]
Teacher = Callable[[nn.Module, LabelledSet, Tensor], tuple[Tensor, Tensor]]
"""Return the outputs of the teacher and of a student, in that order, on a batch and its positions in the set that the
teacher was made for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What each sample of a set measures, (N,), float64, on the draws that every network is measured on.

    `wrong`: the share of its draws on which it is not recognised as of its class. `lost`: what it takes from the
    network's usefulness, in shares of all that there is to lose.
    """

    losses: Tensor
    wrong: Tensor
    lost: Tensor


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How far apart losses of a task lie that are as good as equal; the defaults are for cross-entropy in nats.

    A loss of at most `known_factor` L* + `known_offset`, L* the parent's on the forget set, counts as not forgotten.
    The push aims at `above_reference` times the reference loss, and no nearer to still known than `clear`. A loss above
    `too_far` times the aim shows membership too.
    """

    known_factor: float = 1.05
    known_offset: float = 0.05
    above_reference: float = 1.2
    clear: float = 0.07
    too_far: float = 2.0


class Task(Protocol):
    """A loss per sample, what it is made of, and the few things that methods need beside it."""

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """Return the CPU generators that passes in steps draw from."""

    @property
    def margins(self) -> Margins:
        """Return what losses are told apart by."""

    def on_draws_of(self, seed: int) -> "Task":
        """Return the task whose `view`s are the draws of that seed: itself where nothing is drawn."""

    @property
    def views(self) -> int:
        """Return how many draws there are to measure a sample on."""

    def view(self, model: nn.Module, images: Tensor, labels: Tensor, number: int) -> Inputs:
        """Return the inputs of uint8 images (N, C, H, W) on the draw of that number; the same for every network."""

    def forward(self, network: Network, inputs: Inputs) -> Tensor:
        """Return the outputs of `network`, a module or a function like it, on inputs."""

    def outputs(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the outputs of a pass in a step, on draws of its own, in whatever mode the model is."""

    def loss_of_outputs(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,)."""

    def per_sample_loss(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss (N,) of a pass in a step."""

    def taught_loss(self, model: nn.Module, given: LabelledSet, labels: Tensor) -> Tensor:
        """Return the loss (N,) of teaching that samples are what `given` says, where `labels` are their own."""

    def measured(self, model: nn.Module, samples: LabelledSet) -> Measured:
        """Measure the network in eval mode without gradients; its modes are restored."""

    def guess_loss(self, outputs: Tensor) -> float:
        """Return the loss of a network that knows nothing and gives outputs of this shape."""

    def classes(self, model: nn.Module, example: LabelledSet) -> int:
        """Return how many classes the network tells apart; the example has one sample at least."""

    def teacher(self, original: nn.Module, samples: LabelledSet, prepared: Tensor | None = None) -> Teacher:
        """Return the network as it is now as a teacher on `samples`; `prepared`: its outputs on them, if known."""

    def distance(self, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
        """Return how far a student's outputs are from its teacher's, (N,)."""

    def started_from(self, parent: nn.Module) -> nn.Module:
        """Return the network that a method starts from, which it does not change; the parent stays as it is."""

    def finish(self, model: nn.Module) -> None:
        """Bring what the weights are accompanied by up to date, after the last step of a method."""
