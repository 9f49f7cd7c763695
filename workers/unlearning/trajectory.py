"""Watch an iterative method epoch by epoch: measure each state, keep it, and end the run when a guard says so.

Reads the forget set and the selection pool; audit data never comes here.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.training import NonFiniteLossError
from workers.unlearning.interface import (
    DivergedError,
    Surroundings,
    UnlearningResult,
    UnlearningSplits,
    UtilityLostError,
)
from workers.unlearning.selection import Chooser, EpochRecord, Terms, within_floor

PATIENCE = 3
"""Epochs in a row below the accuracy floor, once the method has stopped pushing, that end a run."""
POOL_FIELDS = ("reference_error", "reference_loss", "selection_accuracy", "selection_loss")
"""The fields of a record that are measured on the selection pool."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """The selection pool weighed to the forget set's class mix, and which of it keeps its label."""

    weights: Tensor
    stays: Tensor


class Trajectory:
    """Keep the state and the measurements of every epoch of one run, on the model's device.

    The reference is the selection pool weighed to the forget set's class mix; selection accuracy is taken on
    labels that stay in the retain set: what is left of the network's usefulness, in the task's shares. Without a
    selection pool there is no floor, and the history holds null for what would be measured on it. Raises DivergedError
    where the parent's own outputs are not finite.
    """

    def __init__(self, model: nn.Module, splits: UnlearningSplits, around: Surroundings) -> None:
        self._splits, self._task = splits, around.task
        labels = splits.selection.labels
        self._reference = _Reference(
            weights=class_mix_weights(labels, splits.forget.labels), stays=torch.isin(labels, splits.retained_labels)
        )
        self.records = [self._measured_parent(model)]
        self.terms = Terms(
            floor=self.records[0].selection_accuracy - around.max_accuracy_drop,
            comfortable=self.records[0].selection_accuracy - around.max_accuracy_drop / 2,
            forget_count=len(splits.forget),
            reference_count=int((self._reference.weights > 0).sum()),
            all_gone=not bool(torch.isin(splits.forget.labels, splits.retained_labels).any()),
            margins=around.task.margins,
        )
        self._states: list[dict[str, Tensor]] = []

    def add(self, model: nn.Module, objectives: dict[str, float]) -> EpochRecord:
        """Measure the model as it is after the next epoch and keep a copy; raise NonFiniteLossError."""
        record = self._measure(model, len(self.records), objectives)
        self.records.append(record)
        self._states.append({name: value.clone() for name, value in model.state_dict().items()})
        return record

    def result(self, model: nn.Module, choose: Chooser, verdict: str, started: float) -> UnlearningResult:
        """Load the chosen epoch into `model`. Raises UtilityLostError, or DivergedError without any epoch."""
        history = tuple(self._row(record) for record in self.records)
        if not self._states:
            raise DivergedError(f"{verdict}: no epoch was completed", history=history)
        if not within_floor(self.records, self.terms.floor):
            raise UtilityLostError(
                f"{verdict}: no epoch kept selection accuracy at or above {self.terms.floor:.4f}", history=history
            )
        choice = choose(self.records, self.terms)
        model.load_state_dict(self._states[choice.epoch - 1])
        return UnlearningResult(
            model=model.eval(),
            history=history,
            selection={**asdict(choice), "accuracy_floor": self.terms.floor if self._pooled else None},
            verdict=verdict,
            seconds=time.perf_counter() - started,
        )

    def _measured_parent(self, model: nn.Module) -> EpochRecord:
        try:
            return self._measure(model, 0, {})
        except NonFiniteLossError as error:
            raise DivergedError("the original's own outputs are not finite: nothing can be learned from it") from error

    @property
    def _pooled(self) -> bool:
        return len(self._splits.selection) > 0

    def _row(self, record: EpochRecord) -> dict[str, Any]:
        unknown = {} if self._pooled else dict.fromkeys(POOL_FIELDS)
        return {**asdict(record), **unknown}

    def _measure(self, model: nn.Module, epoch: int, objectives: dict[str, float]) -> EpochRecord:
        forget = self._task.measured(model, self._splits.forget)
        record = EpochRecord(
            epoch=epoch,
            forget_error=1 - float((1 - forget.wrong).mean()),
            forget_loss=float(forget.losses.mean()),
            **self._on_the_pool(model),
            objectives=objectives,
        )
        if not (math.isfinite(record.forget_loss) and math.isfinite(record.reference_loss)):
            raise NonFiniteLossError(f"outputs are not finite after epoch {epoch}")
        return record

    def _on_the_pool(self, model: nn.Module) -> dict[str, float]:
        if not self._pooled:
            return dict(zip(POOL_FIELDS, (0.0, 0.0, 1.0, 0.0), strict=True))
        stays, weights = self._reference.stays, self._reference.weights
        pool, kept = self._task.measured(model, self._splits.selection), (1.0, 0.0)
        # a pool without any label that stays has no floor to keep
        if bool(stays.any()):
            kept = (1 - float(pool.lost[stays].mean()), float(pool.losses[stays].mean()))
        return dict(zip(POOL_FIELDS, (float(pool.wrong @ weights), float(pool.losses @ weights), *kept), strict=True))


def class_mix_weights(pool_labels: Tensor, forget_labels: Tensor) -> Tensor:
    """Weigh the pool's samples, float64 (N,) of sum 1, so that its classes weigh as in the forget set.

    Classes the pool lacks are left out; a pool without any of them is weighed evenly, an empty one not at all.
    """
    if not len(pool_labels):
        return torch.zeros(0, dtype=torch.float64, device=pool_labels.device)
    classes = int(torch.maximum(pool_labels.max(), forget_labels.max())) + 1
    in_pool = torch.bincount(pool_labels, minlength=classes)
    in_forget = torch.bincount(forget_labels, minlength=classes)
    weights = (in_forget.double() / in_pool.clamp(min=1))[pool_labels]
    total = float(weights.sum())
    return weights / total if total else torch.full_like(weights, 1 / len(weights))


def follow(model: nn.Module, epochs: Iterator[dict[str, float]], trajectory: Trajectory, pushing_epochs: int) -> str:
    """Run the epochs and record each; return "completed" or the name of the guard that ended the run.

    Accuracy may fall while a method pushes away from the forget set (the first `pushing_epochs`), since later
    epochs repair it; after that PATIENCE epochs in a row below the floor end the run.
    """
    below = 0
    try:
        for objectives in epochs:
            record = trajectory.add(model, objectives)
            repairing = record.epoch > pushing_epochs
            below = below + 1 if repairing and record.selection_accuracy < trajectory.terms.floor else 0
            if below >= PATIENCE:
                return "utility_guard"
    except NonFiniteLossError:
        return "non_finite_guard"
    return "completed"
