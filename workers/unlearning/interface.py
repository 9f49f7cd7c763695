"""What goes into an unlearning method and what comes out.

The methods themselves stand one per file beside this.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.samples import LabelledSet
from workers.task import Task
from workers.training import Progress, TrainingError, no_progress
from workers.training_state import NO_JOURNAL, Journal


class UnlearningError(RuntimeError):
    """The method cannot deliver a model; the ladder goes on. `history` holds the epochs there were."""

    def __init__(self, message: str, *, history: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(message)
        self.history = history


class UtilityLostError(UnlearningError):
    """No epoch kept selection-pool accuracy within the allowed drop."""


class DivergedError(UnlearningError, TrainingError):
    """The loss stopped being finite before any epoch could be kept."""


class UnknownMethodError(ValueError):
    """No method of that name; the message lists those there are."""


class RetainSetGoneError(UnlearningError):
    """The method reads the retain set, and it is gone."""


class InvalidSplitsError(ValueError):
    """The forget set is empty, out of range, repeats a sample, or leaves nothing to retain."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlearningSplits:
    """Cut the parent's training set into forget and retain set; `selection` is held out.

    `train` is what the parent was trained on. Forget and retain set are disjoint since both are cut from it
    by one index. All tensors lie on one device. `known_retained_labels` is given by `forget_only` alone, where
    `train` holds nothing but the forget set. `positions`, int64 (n,), are where the samples of `train` stand in their
    dataset: the same for a sample whatever was erased around it. Raises InvalidSplitsError.
    """

    train: LabelledSet
    forget_index: Tensor
    selection: LabelledSet
    known_retained_labels: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def forget_only(cls, forget: LabelledSet, selection: LabelledSet, *, retained_labels: Tensor) -> "UnlearningSplits":
        """Return splits for when the retain set is gone: `retain` then raises, all else is as usual.

        `retained_labels`, int64 (n,), says which labels the retain set had; `selection` may be empty.
        """
        index = torch.arange(len(forget), device=forget.device)
        return cls(train=forget, forget_index=index, selection=selection, known_retained_labels=retained_labels)

    def __post_init__(self) -> None:
        index, count = self.forget_index, len(self.train)
        if index.dtype != torch.int64 or index.ndim != 1 or not len(index):
            found = f"{index.dtype} {tuple(index.shape)}"
            raise InvalidSplitsError(f"forget index must be int64 (n,) with n > 0, not {found}")
        if self.positions is not None and (self.positions.dtype != torch.int64 or self.positions.shape != (count,)):
            found = f"{self.positions.dtype} {tuple(self.positions.shape)}"
            raise InvalidSplitsError(f"positions must be int64 ({count},), not {found}")
        if int(index.min()) < 0 or int(index.max()) >= count:
            raise InvalidSplitsError(f"forget index reaches outside 0..{count - 1}")
        if len(torch.unique(index)) != len(index):
            raise InvalidSplitsError("forget index repeats a sample")
        if len(index) == count and self.known_retained_labels is None:
            raise InvalidSplitsError("the forget set is the whole training set: nothing is left to retain")

    @cached_property
    def retain_index(self) -> Tensor:
        """Return the positions in `train` that are kept, ascending."""
        kept = torch.ones(len(self.train), dtype=torch.bool, device=self.train.device)
        kept[self.forget_index.to(kept.device)] = False
        return kept.nonzero().squeeze(1)

    @cached_property
    def forget(self) -> LabelledSet:
        """Return the samples to remove."""
        return self.train.take(self.forget_index)

    @cached_property
    def retain(self) -> LabelledSet:
        """Return the samples to keep. Raises RetainSetGoneError where they are not there."""
        if self.known_retained_labels is not None:
            raise RetainSetGoneError("the retain set is gone: only a method that does not need it can work here")
        return self.train.take(self.retain_index)

    @cached_property
    def retained_labels(self) -> Tensor:
        """Return the labels of the retain set, each once, ascending. Reads no image."""
        known = self.known_retained_labels
        labels = self.train.labels[self.retain_index] if known is None else known.to(self.train.device)
        return torch.tensor(sorted(set(labels.tolist())), dtype=torch.int64, device=labels.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surroundings:
    """What a method may use beside the model and the data.

    `build_model(seed)` returns a freshly initialised network on the CPU. `max_accuracy_drop` is a share in
    0..1 of selection-pool accuracy, on labels that stay in the retain set. All randomness comes from
    `generator`, a CPU generator. `prepared` holds what was made of the parent before any request, by the names of
    service.catalogue.preparations: tensors by name each. `journal` keeps a long training: what an exact method trains.
    """

    task: Task
    recipe: Recipe
    build_model: Callable[[int], nn.Module]
    generator: torch.Generator
    max_accuracy_drop: float = 0.02
    progress: Progress = no_progress
    journal: Journal = NO_JOURNAL
    prepared: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class UnlearningResult:
    """Hold the unlearned model, in eval mode, and how it came about.

    `history` has one JSON-safe entry per epoch; `selection` says which epoch was taken and why;
    `verdict` is "completed" or names the guard that ended the run early; `prepared` is what a later request on the
    new model can start from, as in Surroundings.
    """

    model: nn.Module
    history: tuple[dict[str, Any], ...]
    selection: dict[str, Any] = field(default_factory=dict)
    verdict: str = "completed"
    prepared: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    seconds: float


def classifying(around: Surroundings) -> Classification:
    """Return the task of a method that needs logits. Raises UnlearningError for another task."""
    return with_logits(around.task)


def with_logits(task: Task) -> Classification:
    """Return the task if it is a classifier's. Raises UnlearningError."""
    if not isinstance(task, Classification):
        raise UnlearningError("it needs a classifier's logits, and the model predicts noise")
    return task
