"""The likelihood-ratio attack: is a sample's phi what models that never saw it give, or what those give that did?

Carlini et al., S&P 2022, arXiv:2112.03570: a Gaussian per sample and side. N samples, members and controls alike,
stand on one axis: phi of the audited model (N,), phi of k reference models (k, N), and who saw what, bool (k, N).
"""

import numpy as np

from workers.evaluation.intervals import Floats
from workers.evaluation.records import Records
from workers.evaluation.reference_models import (
    Bools,
    all_finite,
    check_reference,
    masked_mean,
    refuse_shared_by_side,
    squared_deviations,
)
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import tell_apart, untold

POOLED_BELOW = 32
"""With fewer reference models, samples share one variance: so few say little about one alone."""
VARIANCE_FLOOR = 1e-3
"""A sample's variance is at least this share of the pooled one."""
SMALLEST_VARIANCE = 1e-12
NOT_FINITE = "phi is not finite for some sample, under the audited or a reference model"


def lira_offline(
    target: Floats, is_member: Bools, *, reference: Floats, seen: Bools, records: Records | None = None
) -> list[MetricResult]:
    """Return AUC and true positive rates of the attack that needs only models that never saw the sample.

    Samples that every reference model saw are left out and counted in `extra`. `records` are the N ids: ValueError
    if a member and a control share one.
    """
    check_reference(target, is_member, reference, seen)
    refuse_shared_by_side(records, is_member)
    if not np.isfinite(target).all() or not all_finite(reference, ~seen):
        return untold("lira_offline", "inconclusive", NOT_FINITE)
    scores = offline_scores(target, reference=reference, seen=seen)
    return scored("lira_offline", scores, is_member, len(reference))


def lira_online(
    target: Floats, is_member: Bools, *, reference: Floats, seen: Bools, records: Records | None = None
) -> list[MetricResult]:
    """Return AUC and true positive rates of the log likelihood ratio of having been seen.

    Samples that no reference model saw, or every one, are left out and counted in `extra`. `records` as above.
    """
    check_reference(target, is_member, reference, seen)
    refuse_shared_by_side(records, is_member)
    return by_ratio("lira_online", target, is_member, reference=reference, inside=seen, outside=~seen)


def by_ratio(
    attack: str, target: Floats, is_member: Bools, *, reference: Floats, inside: Bools, outside: Bools
) -> list[MetricResult]:
    """Return what the log likelihood ratio between the two kinds of models tells; both kinds must vary."""
    used = inside | outside
    if not np.isfinite(target).all() or not all_finite(reference, used):
        return untold(attack, "inconclusive", NOT_FINITE)
    if max(inside.sum(0), default=0) < 2 or max(outside.sum(0), default=0) < 2:
        reason = "needs at least 2 reference models of each kind for some sample: without them there is no variance"
        return untold(attack, "inconclusive", reason)
    scores = log_ratios(target, reference=reference, inside=inside, outside=outside)
    return scored(attack, scores, is_member, len(reference))


def offline_scores(target: Floats, *, reference: Floats, seen: Bools) -> Floats:
    """Return (phi - mean_out) / std_out, float64 (N,); NaN for a sample that every model saw.

    The paper's score is the normal distribution function of this, which keeps the order but reads 1 for all that
    lie far out. Where no sample has 2 models to vary between, the deviation is 1: the shared scale moves no rank.
    """
    mean, variance = gaussians(reference, ~seen)
    scores: Floats = (target - mean) / np.sqrt(variance)
    return scores


def log_ratios(target: Floats, *, reference: Floats, inside: Bools, outside: Bools) -> Floats:
    """Return log N(phi; inside) - log N(phi; outside), float64 (N,); NaN for a sample without both kinds."""
    (mean_in, var_in), (mean_out, var_out) = gaussians(reference, inside), gaussians(reference, outside)
    ratios: Floats = 0.5 * (
        np.log(var_out) - np.log(var_in) + (target - mean_out) ** 2 / var_out - (target - mean_in) ** 2 / var_in
    )
    return ratios


def gaussians(reference: Floats, used: Bools) -> tuple[Floats, Floats]:
    """Return mean and variance per sample over the values used, (N,) each; the mean is NaN where there is none.

    One variance for all below 32 models, with the lost degrees of freedom counted; else each sample's own where it
    has 2 values, not below the floor.
    """
    mean, count = masked_mean(reference, used), used.sum(0)
    squares = squared_deviations(reference, used, mean)
    freedom = np.maximum(count - 1, 0)
    pooled = float(squares.sum() / freedom.sum()) if freedom.any() else 1.0
    variance = np.full(len(mean), pooled)
    if len(reference) >= POOLED_BELOW:
        np.divide(squares, freedom, out=variance, where=freedom > 0)
    return mean, np.maximum(variance, max(VARIANCE_FLOOR * pooled, SMALLEST_VARIANCE))


def scored(attack: str, scores: Floats, is_member: Bools, models: int) -> list[MetricResult]:
    """Return what the scores tell, without the samples that have none; how many those are is in `extra`."""
    known = ~np.isnan(scores)
    extra = {
        "reference_models": models,
        "members_left_out": int(np.sum(is_member & ~known)),
        "controls_left_out": int(np.sum(~is_member & ~known)),
    }
    return tell_apart(attack, scores[is_member & known], scores[~is_member & known], extra=extra)
