"""The membership attack by a threshold on one score: forget samples against unseen controls.

Yeom et al., CSF 2018, arXiv:1709.01604; scores after Song & Mittal, USENIX Security 2021, arXiv:2003.10595.
Scores are signed so that larger means more like a member. Everything is exact, by sorting.
"""

import numpy as np
from torch import Tensor

from workers.evaluation.intervals import Floats, wilson
from workers.evaluation.records import Records, refuse_shared_records
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import FPR_CONTROLS, NOT_A_NUMBER, auc_result, no_figure, tpr_at_fpr
from workers.evaluation.scores import SCORES, toward_member

__all__ = ["auc_result", "balanced_accuracy", "best_threshold", "mia_threshold", "score_arrays", "tpr_at_fpr"]


def best_threshold(members: Floats, controls: Floats) -> float:
    """Return the t at which `score >= t` means member with the best balanced accuracy; the smallest wins."""
    scores = np.concatenate([members, controls])
    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(controls))])
    order = np.argsort(scores)
    ranked, member = scores[order], is_member[order]
    below_m = np.concatenate([[0.0], np.cumsum(member)]) / len(members)
    below_c = np.concatenate([[0.0], np.cumsum(1 - member)]) / len(controls)
    # midway between two scores: on a score itself, the next sample from that side would fall on the wrong side
    with np.errstate(invalid="ignore"):  # between -inf and inf there is no middle
        midway = ranked[:-1] / 2 + ranked[1:] / 2
    thresholds = np.concatenate([ranked[:1], np.where(midway > ranked[:-1], midway, ranked[1:]), [np.inf]])
    # a threshold inside a run of ties would split equal scores
    allowed = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    gain = np.where(allowed, (1 - below_m) + below_c, -np.inf)
    return float(thresholds[int(np.argmax(gain))])


def balanced_accuracy(members: Floats, controls: Floats) -> MetricResult:
    """Return the cross-fitted balanced accuracy: a threshold is never judged on samples that chose it.

    Halves are taken by position, which the draw of the pairs has already made random. The interval is that of
    the two thresholds' own accuracy.
    """
    name, n, m = "mia_threshold.phi.balanced_accuracy", len(members), len(controls)
    if min(n, m) < 2:
        return no_figure(name, "inconclusive", f"needs at least 2 samples on each side; there are {n} and {m}", n=n)
    if np.isnan(members).any() or np.isnan(controls).any():
        return no_figure(name, "inconclusive", NOT_A_NUMBER, n=n)
    hits_m = hits_c = 0
    for fit, judge in ((0, 1), (1, 0)):
        threshold = best_threshold(members[fit::2], controls[fit::2])
        hits_m += int(np.sum(members[judge::2] >= threshold))
        hits_c += int(np.sum(controls[judge::2] < threshold))
    value = (hits_m / len(members) + hits_c / len(controls)) / 2
    low_m, high_m = wilson(hits_m, len(members))
    low_c, high_c = wilson(hits_c, len(controls))
    half_low = np.hypot(hits_m / len(members) - low_m, hits_c / len(controls) - low_c) / 2
    half_high = np.hypot(high_m - hits_m / len(members), high_c - hits_c / len(controls)) / 2
    return MetricResult(
        name=name, value=value, ci95=(value - float(half_low), value + float(half_high)), n=len(members)
    )


def score_arrays(name: str, logits: Tensor, labels: Tensor) -> Floats:
    """Return the score named, signed toward membership, as float64 (N,)."""
    scores: Floats = toward_member(name, logits, labels).cpu().numpy()
    return scores


def mia_threshold(
    forget_logits: Tensor,
    forget_labels: Tensor,
    control_logits: Tensor,
    control_labels: Tensor,
    *,
    records: tuple[Records, Records] | None = None,
) -> list[MetricResult]:
    """Attack sets of equal label shares with every score; return all results of the family.

    `records` are the ids of both sides, in one namespace. Raises ValueError if a record stands on both.
    """
    if records is not None:
        refuse_shared_records(*records)
    results = []
    for name in SCORES:
        members = score_arrays(name, forget_logits, forget_labels)
        controls = score_arrays(name, control_logits, control_labels)
        results.append(auc_result(f"mia_threshold.{name}.auc", members, controls))
        if name == "phi":
            results.append(balanced_accuracy(members, controls))
            results += [tpr_at_fpr(members, controls, label) for label in FPR_CONTROLS]
            results.append(auc_result("mia_threshold.phi.floor", controls[::2], controls[1::2]))
    return results
