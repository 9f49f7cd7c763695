"""Watch an iterative method epoch by epoch: measure each state, keep it, and end the run when a guard says so.

Reads the forget set and the selection pool; audit data never comes here.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """The selection pool weighed to the forget set's class mix, and which of it keeps its label."""

    weights: Tensor
    stays: Tensor


class Trajectory:
    """Keep the state and the measurements of every epoch of one run, on the model's device.

    The reference is the selection pool weighed to the forget set's class mix; selection accuracy is taken on
    labels that stay in the retain set.
    """

    def __init__(self, model: nn.Module, splits: UnlearningSplits, around: Surroundings) -> None:
        self._splits, self._task = splits, around.task
        labels = splits.selection.labels
        self._reference = _Reference(
            weights=class_mix_weights(labels, splits.forget.labels), stays=torch.isin(labels, splits.retain.labels)
        )
        self.records = [self._measure(model, 0, {})]
        self.terms = Terms(
            floor=self.records[0].selection_accuracy - around.max_accuracy_drop,
            comfortable=self.records[0].selection_accuracy - around.max_accuracy_drop / 2,
            forget_count=len(splits.forget),
            reference_count=int((self._reference.weights > 0).sum()),
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
        history = tuple(asdict(record) for record in self.records)
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
            selection={**asdict(choice), "accuracy_floor": self.terms.floor},
            verdict=verdict,
            seconds=time.perf_counter() - started,
        )

    def _measure(self, model: nn.Module, epoch: int, objectives: dict[str, float]) -> EpochRecord:
        task, forget, pool = self._task, self._splits.forget, self._splits.selection
        z_forget, z_pool = task.predict(model, forget), task.predict(model, pool)
        wrong = (z_pool.argmax(1) != pool.labels).double()
        losses = task.loss_of_logits(z_pool, pool.labels).double()
        stays = self._reference.stays
        record = EpochRecord(
            epoch=epoch,
            forget_error=1 - task.accuracy(z_forget, forget.labels),
            forget_loss=float(task.loss_of_logits(z_forget, forget.labels).double().mean()),
            reference_error=float(wrong @ self._reference.weights),
            reference_loss=float(losses @ self._reference.weights),
            # a pool without any label that stays has no floor to keep
            selection_accuracy=1 - float(wrong[stays].mean()) if bool(stays.any()) else 1.0,
            selection_loss=float(losses[stays].mean()) if bool(stays.any()) else 0.0,
            objectives=objectives,
        )
        if not (math.isfinite(record.forget_loss) and math.isfinite(record.reference_loss)):
            raise NonFiniteLossError(f"logits are not finite after epoch {epoch}")
        return record


def class_mix_weights(pool_labels: Tensor, forget_labels: Tensor) -> Tensor:
    """Weigh the pool's samples, float64 (N,) of sum 1, so that its classes weigh as in the forget set.

    Classes the pool lacks are left out; a pool without any of them is weighed evenly.
    """
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
