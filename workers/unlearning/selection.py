"""Watch an iterative method epoch by epoch, and choose the epoch to return ("rewind").

Rewind after SCRUB+R (Kurmanji et al., NeurIPS 2023, arXiv:2302.09880, section 3). Nothing here reads audit data.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.classification import Classification
from workers.unlearning.interface import UnlearningSplits


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """Measure one epoch's state; errors and accuracies are shares, losses nats. Epoch 0 is the parent."""

    epoch: int
    forget_error: float
    forget_loss: float
    reference_error: float
    reference_loss: float
    selection_accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe copy."""
        return asdict(self)


class Trajectory:
    """Keep the state and the measurements of every epoch of one run, on the model's device."""

    def __init__(self, model: nn.Module, splits: UnlearningSplits, task: Classification) -> None:
        self._splits, self._task = splits, task
        labels = splits.selection.labels
        self._kept = torch.isin(labels, splits.retain.labels)
        self._weights = class_mix_weights(labels, splits.forget.labels)
        self.records = [self._measure(model, 0)]
        self.states: list[dict[str, Tensor]] = []

    def add(self, model: nn.Module) -> EpochRecord:
        """Measure the model as it is after the next epoch and keep a copy of its state."""
        record = self._measure(model, len(self.records))
        self.records.append(record)
        self.states.append({name: value.clone() for name, value in model.state_dict().items()})
        return record

    def _measure(self, model: nn.Module, epoch: int) -> EpochRecord:
        task, forget, pool = self._task, self._splits.forget, self._splits.selection
        z_forget, z_pool = task.predict(model, forget), task.predict(model, pool)
        wrong = (z_pool.argmax(1) != pool.labels).double()
        losses = task.loss_of_logits(z_pool, pool.labels).double()
        return EpochRecord(
            epoch=epoch,
            forget_error=1 - task.accuracy(z_forget, forget.labels),
            forget_loss=float(task.loss_of_logits(z_forget, forget.labels).double().mean()),
            reference_error=float(wrong @ self._weights),
            reference_loss=float(losses @ self._weights),
            selection_accuracy=1 - float(wrong[self._kept].mean()),
        )


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
