"""Compare the unlearned model's predictions with a retrained model's, sample by sample.

The average gap as in Fan et al., ICLR 2024, arXiv:2310.12508; ToW as in Zhao et al., NeurIPS 2024,
arXiv:2406.01257; both models are read on the same samples, so that every interval is a paired one.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from workers.evaluation.intervals import Floats, paired_difference, wilson
from workers.evaluation.js_divergence import js_divergence
from workers.evaluation.paired_intervals import Estimated, auc_change, size_of, sum_of
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure

SPLITS = ("retain", "forget", "test")
BySplit = Mapping[str, Tensor]
"""Logits (N, K) or labels (N,) by the names in SPLITS."""
Scores = tuple[Floats, Floats]
"""A model's membership scores of forget samples and of their controls."""


def against_retrained(
    unlearned: BySplit, retrained: BySplit, labels: BySplit, *, scores: Scores, retrained_scores: Scores
) -> list[MetricResult]:
    """Return every comparison with one retrained model; scores are of the attack that the average gap includes."""
    return [
        avg_gap(unlearned, retrained, labels),
        avg_gap_with_mia(unlearned, retrained, labels, scores=scores, retrained_scores=retrained_scores),
        tow(unlearned, retrained, labels),
        js_divergence(unlearned["forget"], retrained["forget"]),
        prediction_agreement(unlearned["forget"], retrained["forget"]),
    ]


def avg_gap(unlearned: BySplit, retrained: BySplit, labels: BySplit) -> MetricResult:
    """Return the mean absolute difference of accuracy over retain, forget and test."""
    fault = _fault("avg_gap", [unlearned, retrained], labels)
    return fault or _mean_gap("avg_gap", accuracy_gaps(unlearned, retrained, labels), _smallest(labels))


def avg_gap_with_mia(
    unlearned: BySplit, retrained: BySplit, labels: BySplit, *, scores: Scores, retrained_scores: Scores
) -> MetricResult:
    """Return the average gap with a fourth difference: the AUC of one attack on either model, on the same samples."""
    name = "avg_gap_with_mia"
    fault = _fault(name, [unlearned, retrained], labels)
    if fault:
        return fault
    if not all(len(side) for side in scores):
        return no_figure(name, "not_applicable", "the attack needs at least 1 sample on each side")
    if any(np.isnan(side).any() for side in (*scores, *retrained_scores)):
        return no_figure(name, "inconclusive", NOT_A_NUMBER)
    gaps = {
        **accuracy_gaps(unlearned, retrained, labels),
        "mia_auc": auc_change(before=retrained_scores, after=scores),
    }
    return _mean_gap(name, gaps, min(_smallest(labels), *map(len, scores)))


def tow(unlearned: BySplit, retrained: BySplit, labels: BySplit) -> MetricResult:
    """Return the product of 1 - |difference of accuracy| over retain, forget and test; in [0, 1]."""
    fault = _fault("tow", [unlearned, retrained], labels)
    if fault:
        return fault
    gaps = accuracy_gaps(unlearned, retrained, labels)
    sizes = [size_of(gap) for gap in gaps.values()]
    if any(size.value >= 1 for size in sizes):
        # a factor of 0 has no logarithm to add
        low, high = 0.0, math.prod(1 - size.ci95[0] for size in sizes)
    else:
        logs = sum_of([Estimated(value=_log(s.value), ci95=(_log(s.ci95[0]), _log(s.ci95[1]))) for s in sizes])
        low, high = math.exp(-logs.ci95[1]), math.exp(-logs.ci95[0])
    value = math.prod(1 - size.value for size in sizes)
    return MetricResult(name="tow", value=value, ci95=(low, high), n=_smallest(labels), extra=_shown(gaps))


def prediction_agreement(unlearned: Tensor, retrained: Tensor, *, split: str = "forget") -> MetricResult:
    """Return the share of samples for which both models' logits (N, K) predict one class."""
    name = "prediction_agreement"
    fault = _fault(name, [{split: unlearned}, {split: retrained}], {split: unlearned}, splits=(split,))
    if fault:
        return fault
    n, same = len(unlearned), int((unlearned.argmax(1) == retrained.argmax(1)).sum())
    return MetricResult(name=name, split=split, value=same / n, ci95=wilson(same, n), n=n)


def accuracy_gaps(unlearned: BySplit, retrained: BySplit, labels: BySplit) -> dict[str, Estimated]:
    """Return the unlearned model's accuracy minus the retrained model's, by split; none may be empty."""
    gaps = {}
    for split in SPLITS:
        ours, theirs = (_right(logits[split], labels[split]) for logits in (unlearned, retrained))
        gaps[split] = Estimated(value=float(np.mean(ours - theirs)), ci95=paired_difference(ours, theirs))
    return gaps


def _mean_gap(name: str, gaps: Mapping[str, Estimated], n: int) -> MetricResult:
    total = sum_of([size_of(gap) for gap in gaps.values()])
    low, high = total.ci95
    count = len(gaps)
    return MetricResult(
        name=name, value=total.value / count, ci95=(low / count, min(1.0, high / count)), n=n, extra=_shown(gaps)
    )


def _fault(
    name: str, models: Sequence[BySplit], labels: BySplit, *, splits: Sequence[str] = SPLITS
) -> MetricResult | None:
    empty = [split for split in splits if not len(labels[split])]
    if empty:
        return no_figure(name, "not_applicable", f"needs at least 1 sample of each set; there is none of {empty}")
    broken = any(not bool(logits[split].isfinite().all()) for logits in models for split in splits)
    return no_figure(name, "inconclusive", NOT_A_NUMBER) if broken else None


def _shown(gaps: Mapping[str, Estimated]) -> dict[str, object]:
    return {"gaps": {split: {"value": gap.value, "ci95": [*gap.ci95]} for split, gap in gaps.items()}}


def _right(logits: Tensor, labels: Tensor) -> Floats:
    right: Floats = (logits.argmax(1) == labels).double().cpu().numpy()
    return right


def _smallest(labels: BySplit) -> int:
    return min(len(labels[split]) for split in SPLITS)


def _log(gap: float) -> float:
    return -math.log1p(-gap) if gap < 1 else math.inf
