"""What a long training can be gone on with from: the state it changes, and who keeps it. Writes no file.

The classes here keep nothing, which is what a training that nobody resumes is given; workers.journal writes files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingState:
    """What a training changes: live tensors by name, the optimiser, and the CPU generators its batches come from."""

    tensors: Mapping[str, Tensor]
    optimizer: Optimizer
    generators: Sequence[torch.Generator]


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """What is kept of a part that is done: tensors on the CPU, and JSON-safe facts."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Keeper:
    """Keeps one training, epoch by epoch; this one nothing."""

    def restore(self, state: TrainingState) -> list[Any]:  # noqa: ARG002
        """Put the training where it was kept, and return what it had said of its epochs; else leave it as it is."""
        return []

    def epoch_ended(self, state: TrainingState, losses: Sequence[Any], *, epochs: int) -> None:
        """Keep the training, if it is time, after as many epochs as there are losses, of `epochs`. Raises Stopped."""


class Journal:
    """Keeps a piece of work that consists of parts, each a training; this one nothing.

    `resumed_from` has, for each time the work went on in another process, how many epochs were done;
    `seconds_before` is what those took.
    """

    resumed_from: tuple[int, ...] = ()
    seconds_before: float = 0.0

    def part(self, name: str, *, last: bool = False) -> Keeper:  # noqa: ARG002
        """Return who keeps the training of that name. `last`: what follows it may take long."""
        return Keeper()

    def finished(self, name: str) -> Finished | None:  # noqa: ARG002
        """Return what was kept of a part that is done, and put torch's own random state where the part left it."""
        return None

    def finish(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, epochs: int, last: bool = False
    ) -> None:
        """Keep what came of a part of so many epochs, in place of the parts named ``<name>/…``. Raises Stopped."""

    def within(self, prefix: str) -> "Journal":
        """Return a journal of the parts of a part, whose names are ``<prefix>/…`` in this one."""
        return _Within(self, prefix)


class _Within(Journal):
    def __init__(self, whole: Journal, prefix: str) -> None:
        self._whole, self._prefix = whole, prefix

    def part(self, name: str, *, last: bool = False) -> Keeper:
        return self._whole.part(f"{self._prefix}/{name}", last=last)

    def finished(self, name: str) -> Finished | None:
        return self._whole.finished(f"{self._prefix}/{name}")

    def finish(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, epochs: int, last: bool = False
    ) -> None:
        self._whole.finish(f"{self._prefix}/{name}", tensors, facts, epochs=epochs, last=last)


NO_KEEPER = Keeper()
NO_JOURNAL = Journal()
