"""95 % intervals: Wilson for rates, DeLong for an AUC, bootstrap for the rest. Pure functions."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Z95 = 1.959963984540054


def wilson(successes: float, n: int) -> Interval:
    """Return Wilson's score interval of a rate (Wilson 1927); (0, 1) when n is 0. A tie may be half a success."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # rounding would leave an edge a hair inside the rate itself
    return (max(0.0, centre - half) if successes else 0.0), (min(1.0, centre + half) if successes < n else 1.0)


def paired_difference(before: Floats, after: Floats) -> Interval:
    """Return the interval of mean(before - after) for paired 0/1 outcomes, each (n,).

    Tango-like adjusted Wald (Agresti & Min 2005): half a pair is added to each of the four cells, so that
    no discordant pair still leaves some width.
    """
    n = len(before)
    lost = float(np.sum((before == 1) & (after == 0))) + 0.5
    won = float(np.sum((before == 0) & (after == 1))) + 0.5
    total = n + 2.0
    centre = (lost - won) / total
    half = Z95 * math.sqrt(max(0.0, lost + won - (lost - won) ** 2 / total)) / total
    return max(-1.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Floats) -> Interval | None:
    """Return the normal interval of a mean; None below two values."""
    if len(values) < 2:
        return None
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def cross_validated(hits: Floats, trials: Floats, *, chance: float = 0.5) -> Interval:
    """Return the interval of a cross-validated rate from the hits and trials of each fold, (folds,) each.

    Student's t over the folds, turned round: all rates from which the measured one is not too far. Folds share
    training samples, and where there is little to learn they agree on which way to err: near chance the variance
    of their mean is 1/folds + 0.15 of one fold's (the form is Nadeau & Bengio's, 2003), fading with the distance
    from chance, to 0.04. Simulated for 5 folds, 50 to 500 samples a side, normal and exponential losses: covers 93 to
    97 %, and 91 to 93 % far from chance where one side's losses end abruptly. Wilson's interval of the pooled rate
    covers 85 to 100 %, Nadeau & Bengio's 1/4 up to 99 %.
    Folds that all agree say nothing of their spread: then Wilson's.
    """
    if len(hits) < 2 or not np.all(trials > 0):
        raise ValueError("a cross-validated rate needs at least 2 folds, none of them empty")
    folds, spread = len(hits), float(np.std(hits / trials, ddof=1))
    if spread == 0:
        return wilson(float(np.sum(hits)), int(np.sum(trials)))
    rate = float(np.sum(hits) / np.sum(trials))
    truths = np.linspace(0, 1, 10_001)
    from_chance = (truths - chance) / (spread / math.sqrt(folds))
    shared = np.maximum(0.15 * np.exp(-((from_chance / 4) ** 4)), 0.04)
    half = float(student_t.ppf(0.975, folds - 1)) * spread * np.sqrt(1 / folds + shared)
    possible = np.append(truths[np.abs(rate - truths) <= half], rate)
    return float(possible.min()), float(possible.max())


def auc_delong(positives: Floats, negatives: Floats) -> tuple[float, Interval]:
    """Return P(positive > negative), ties half, and its interval.

    DeLong et al. 1988, sorting once and counting by runs of equal scores, on the logit scale. Where the
    variance vanishes, as at an AUC of exactly 0 or 1 or when all scores tie, the interval is the score
    interval of a rate with min(n, m) trials; so it is when a side has one sample.
    Both inputs must be non-empty; they are not changed. O((n + m) log(n + m)).
    """
    n, m = len(positives), len(negatives)
    if not n or not m:
        raise ValueError("an AUC needs scores on both sides")
    positive, negative = _runs(positives, negatives)
    # how many of the other side lie below a run, ties half
    below_pos = np.cumsum(negative) - negative / 2
    below_neg = np.cumsum(positive) - positive / 2
    auc = float(positive @ below_pos) / (n * m)
    variance = 0.0
    if min(n, m) > 1:
        variance += float(positive @ (below_pos / m - auc) ** 2) / (n - 1) / n
        variance += float(negative @ (1 - below_neg / n - auc) ** 2) / (m - 1) / m
    if variance <= 0 or not 0 < auc < 1:
        return auc, wilson(auc * min(n, m), min(n, m))
    logit, half = math.log(auc / (1 - auc)), Z95 * math.sqrt(variance) / (auc * (1 - auc))
    return auc, (_expit(logit - half), _expit(logit + half))


def _runs(positives: Floats, negatives: Floats) -> tuple[Floats, Floats]:
    """Return how many scores of each side stand in each run of equal scores, from the lowest, (runs,) each."""
    scores = np.concatenate([positives, negatives])
    order = np.argsort(scores)
    ranked = scores[order]
    ends = np.flatnonzero(np.append(ranked[1:] > ranked[:-1], True))
    positive = np.diff(np.cumsum(order < len(positives))[ends], prepend=0)
    return positive.astype(np.float64), (np.diff(ends, prepend=-1) - positive).astype(np.float64)


def percentile_interval(resampled: Floats) -> Interval:
    """Return the bootstrap's percentile interval from a statistic's values on the resamples, (draws,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
