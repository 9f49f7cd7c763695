"""95 % intervals: Wilson for rates, DeLong for an AUC, bootstrap for the rest. Pure functions."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

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


def auc_delong(positives: Floats, negatives: Floats) -> tuple[float, Interval]:
    """Return P(positive > negative), ties half, and its interval.

    DeLong et al. 1988 by midranks (Sun & Xu 2014), on the logit scale. Where the
    variance vanishes, as at an AUC of exactly 0 or 1 or when all scores tie, the interval is the score
    interval of a rate with min(n, m) trials; so it is when a side has one sample.
    Both inputs must be non-empty; they are not changed. O((n + m) log(n + m)).
    """
    n, m = len(positives), len(negatives)
    if not n or not m:
        raise ValueError("an AUC needs scores on both sides")
    ranks = rankdata(np.concatenate([positives, negatives]))
    v_pos = (ranks[:n] - rankdata(positives)) / m
    v_neg = 1 - (ranks[n:] - rankdata(negatives)) / n
    auc = float(np.mean(v_pos))
    variance = float(np.var(v_pos, ddof=1)) / n + float(np.var(v_neg, ddof=1)) / m if min(n, m) > 1 else 0.0
    if variance <= 0 or not 0 < auc < 1:
        return auc, wilson(auc * min(n, m), min(n, m))
    logit, half = math.log(auc / (1 - auc)), Z95 * math.sqrt(variance) / (auc * (1 - auc))
    return auc, (_expit(logit - half), _expit(logit + half))


def percentile_interval(resampled: Floats) -> Interval:
    """Return the bootstrap's percentile interval from a statistic's values on the resamples, (draws,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
