"""Attack again what earlier versions had to forget: later work must not bring it back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.classification import Classification
from workers.evaluation.mia_threshold import auc_result, score_arrays
from workers.evaluation.result import MetricResult
from workers.evaluation.unseen_controls import ControlPairs, draw_controls, in_rounds
from workers.evaluation.utility import accuracy_and_loss
from workers.samples import LabelledSet

AUDITED, GONE = "audited", "data_gone"


@dataclass(frozen=True, kw_only=True, eq=False)
class EarlierSet:
    """An earlier forget set: the evaluation it was forgotten under, its size, and what of it may still be read."""

    evaluation_id: str | None
    num_samples: int
    samples: LabelledSet | None


def audit_again(
    earlier: EarlierSet,
    *,
    audit_labels: Tensor,
    generator: torch.Generator,
    attack: Callable[[LabelledSet, ControlPairs], Sequence[MetricResult]],
) -> dict[str, Any]:
    """Return what `attack` says of the earlier set beside controls drawn for it, or that its data is gone. JSON-safe.

    The pairs are positions in the set and in the audit pool, whose labels, int64 (N,), lie on the CPU.
    """
    shown = {"evaluation_id": earlier.evaluation_id, "num_samples": earlier.num_samples}
    if earlier.samples is None or not len(earlier.samples):
        return {**shown, "state": GONE, "metrics": []}
    labels = earlier.samples.labels.cpu()
    pairs = draw_controls(labels, audit_labels, generator=generator)
    pairs = in_rounds(pairs, labels, audit_labels, generator=generator)
    results = attack(earlier.samples, pairs)
    return {**shown, "state": AUDITED, "metrics": [result.to_dict() for result in results]}


def attack_on_phi(
    model: nn.Module, *, task: Classification, audit_logits: Tensor, audit_labels: Tensor
) -> Callable[[LabelledSet, ControlPairs], list[MetricResult]]:
    """Return what measures accuracy, loss and the attack on phi of a classifier."""

    def attack(samples: LabelledSet, pairs: ControlPairs) -> list[MetricResult]:
        logits, labels = task.predict(model, samples).cpu(), samples.labels.cpu()
        members = score_arrays("phi", logits[pairs.forget], labels[pairs.forget])
        controls = score_arrays("phi", audit_logits[pairs.audit], audit_labels[pairs.audit])
        return [
            *accuracy_and_loss("forget", logits, labels),
            auc_result("mia_threshold.phi.auc", members, controls),
        ]

    return attack
