"""Watch an iterative method epoch by epoch, and choose the epoch to return.

The rewind is SCRUB+R's (Kurmanji et al., NeurIPS 2023, arXiv:2302.09880): the epoch whose forget error is
nearest the error on held-out samples of the forget set's class mix. Nothing here reads audit data.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

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

PATIENCE = 3
"""Epochs in a row below the accuracy floor, once the method has stopped pushing, that end a run."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Measure one epoch's state; errors and accuracies are shares, losses nats. Epoch 0 is the parent.

    The reference is the selection pool weighed to the forget set's class mix; selection accuracy is taken on
    labels that stay in the retain set. `objectives` are the method's own mean losses of that epoch.
    """

    epoch: int
    forget_error: float
    forget_loss: float
    reference_error: float
    reference_loss: float
    selection_accuracy: float
    objectives: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Name the epoch chosen, the rule that chose it, and whether the rule wanted the parent instead."""

    epoch: int
    rule: str
    boundary: bool = False


Chooser = Callable[[Sequence[EpochRecord], float, int], Choice]
"""Choose from records (the parent's first), the accuracy floor and the number of forget samples."""


class Trajectory:
    """Keep the state and the measurements of every epoch of one run, on the model's device."""

    def __init__(self, model: nn.Module, splits: UnlearningSplits, around: Surroundings) -> None:
        self._splits, self._task = splits, around.task
        labels = splits.selection.labels
        self._kept = torch.isin(labels, splits.retain.labels)
        self._weights = class_mix_weights(labels, splits.forget.labels)
        self.records = [self._measure(model, 0, {})]
        self.floor = self.records[0].selection_accuracy - around.max_accuracy_drop
        self._states: list[dict[str, Tensor]] = []

    def add(self, model: nn.Module, objectives: dict[str, float]) -> EpochRecord:
        """Measure the model as it is after the next epoch and keep a copy of its state."""
        record = self._measure(model, len(self.records), objectives)
        self.records.append(record)
        self._states.append({name: value.clone() for name, value in model.state_dict().items()})
        return record

    def result(self, model: nn.Module, choose: Chooser, verdict: str, started: float) -> UnlearningResult:
        """Load the chosen epoch into `model`. Raises UtilityLostError, or DivergedError without any epoch."""
        history = tuple(asdict(record) for record in self.records)
        if not self._states:
            raise DivergedError(f"{verdict}: no epoch was completed", history=history)
        if not within_floor(self.records, self.floor):
            raise UtilityLostError(
                f"{verdict}: no epoch kept selection accuracy at or above {self.floor:.4f}", history=history
            )
        choice = choose(self.records, self.floor, len(self._splits.forget))
        model.load_state_dict(self._states[choice.epoch - 1])
        return UnlearningResult(
            model=model.eval(),
            history=history,
            selection={**asdict(choice), "accuracy_floor": self.floor},
            verdict=verdict,
            seconds=time.perf_counter() - started,
        )

    def _measure(self, model: nn.Module, epoch: int, objectives: dict[str, float]) -> EpochRecord:
        task, forget, pool = self._task, self._splits.forget, self._splits.selection
        z_forget, z_pool = task.predict(model, forget), task.predict(model, pool)
        wrong = (z_pool.argmax(1) != pool.labels).double()
        losses = task.loss_of_logits(z_pool, pool.labels).double()
        record = EpochRecord(
            epoch=epoch,
            forget_error=1 - task.accuracy(z_forget, forget.labels),
            forget_loss=float(task.loss_of_logits(z_forget, forget.labels).double().mean()),
            reference_error=float(wrong @ self._weights),
            reference_loss=float(losses @ self._weights),
            # a pool without any label that stays has no floor to keep
            selection_accuracy=1 - float(wrong[self._kept].mean()) if bool(self._kept.any()) else 1.0,
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


def follow(
    model: nn.Module, epochs: Iterator[dict[str, float]], trajectory: Trajectory, pushing_epochs: int
) -> str:
    """Run the epochs and record each; return "completed" or the name of the guard that ended the run.

    Accuracy may fall while a method pushes away from the forget set (the first `pushing_epochs`), since later
    epochs repair it; after that PATIENCE epochs in a row below the floor end the run.
    """
    below = 0
    try:
        for objectives in epochs:
            record = trajectory.add(model, objectives)
            below = below + 1 if record.selection_accuracy < trajectory.floor else 0
            if below >= PATIENCE and record.epoch > pushing_epochs:
                return "utility_guard"
    except NonFiniteLossError:
        return "non_finite_guard"
    return "completed"


def within_floor(records: Sequence[EpochRecord], floor: float) -> list[EpochRecord]:
    """Return the epochs after the parent whose selection accuracy is at or above the floor."""
    return [record for record in records[1:] if record.selection_accuracy >= floor - 1e-12]


def last_within(records: Sequence[EpochRecord], floor: float, forget_count: int) -> Choice:  # noqa: ARG001
    """Choose the last epoch that keeps accuracy."""
    return Choice(epoch=within_floor(records, floor)[-1].epoch, rule="last epoch within the floor")


def rewind(rule: Literal["paper", "service"]) -> Chooser:
    """Return the rewind by the paper's rule or by ours."""
    return rewind_by_error if rule == "paper" else rewind_past_known


def rewind_by_error(records: Sequence[EpochRecord], floor: float, forget_count: int) -> Choice:  # noqa: ARG001
    """Choose argmin over k of |forget error(k) - reference error(E)|; the paper's rule.

    Ties go to the nearer loss, then to the first. E is the last epoch recorded. k runs from 0, the parent;
    when it wins, the best k >= 1 is taken and the choice flagged as boundary.
    """
    final = records[-1]

    def gap(record: EpochRecord) -> tuple[float, float, int]:
        error = round(abs(record.forget_error - final.reference_error), 9)
        return error, abs(record.forget_loss - final.reference_loss), record.epoch

    candidates = within_floor(records, floor)
    best = min(candidates, key=gap)
    return Choice(epoch=best.epoch, rule="paper", boundary=gap(records[0]) < gap(best))


STILL_KNOWN_FACTOR, STILL_KNOWN_NATS = 1.05, 0.05
"""A loss of at most factor * L* + nats, L* the parent's on the forget set, counts as not forgotten."""
CLEAR_OF_KNOWN = 1.5


def rewind_past_known(records: Sequence[EpochRecord], floor: float, forget_count: int) -> Choice:
    """Choose by the paper's rule with our tie-break, for sets whose errors are near 0 on both sides.

    Errors within one standard error of the reference (never less than one sample) count as tied. Among the
    tied, the forget loss decides: nearest the reference loss, but no nearer to the parent's own than
    CLEAR_OF_KNOWN times the loss at which a set counts as still known.
    """
    final = records[-1]
    p = final.reference_error
    tolerance = max(1 / forget_count, math.sqrt(p * (1 - p) / forget_count)) + 1e-9
    known = STILL_KNOWN_FACTOR * records[0].forget_loss + STILL_KNOWN_NATS
    aim = max(final.reference_loss, CLEAR_OF_KNOWN * known)

    def gap(record: EpochRecord) -> tuple[float, float, int]:
        error = abs(record.forget_error - p)
        excess = 0.0 if error <= tolerance else round(error, 9)
        return excess, abs(record.forget_loss - aim), record.epoch

    best = min(within_floor(records, floor), key=gap)
    return Choice(epoch=best.epoch, rule="service", boundary=gap(records[0]) < gap(best))
