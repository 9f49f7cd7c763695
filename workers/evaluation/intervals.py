"""95 % intervals: Wilson for rates, DeLong for an AUC, bootstrap for the rest. Pure functions."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Z95 = 1.959963984540054


def wilson(successes: int, n: int) -> Interval:
    """Return Wilson's score interval of a rate (Wilson 1927); (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


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

    DeLong et al. 1988 by midranks (Sun & Xu 2014), on the logit scale. Where the AUC is exactly 0 or 1 the
    variance vanishes: the interval then is the score interval of a rate with min(n, m) trials.
    Both inputs must be non-empty; they are not changed. O((n + m) log(n + m)).
    """
    n, m = len(positives), len(negatives)
    if not n or not m:
        raise ValueError("an AUC needs scores on both sides")
    ranks = rankdata(np.concatenate([positives, negatives]))
    v_pos = (ranks[:n] - rankdata(positives)) / m
    v_neg = 1 - (ranks[n:] - rankdata(negatives)) / n
    auc = float(np.mean(v_pos))
    if n < 2 or m < 2 or auc <= 0 or auc >= 1:
        trials = min(n, m)
        low, high = wilson(round(auc * trials), trials)
        return auc, (min(low, auc), max(high, auc))
    variance = float(np.var(v_pos, ddof=1)) / n + float(np.var(v_neg, ddof=1)) / m
    logit, half = math.log(auc / (1 - auc)), Z95 * math.sqrt(variance) / (auc * (1 - auc))
    return auc, (_expit(logit - half), _expit(logit + half))


def bootstrap(values: Floats, statistic: Callable[[Floats], Floats], *, seed: int, draws: int = 2000) -> Interval:
    """Return the percentile interval of `statistic`, which maps resamples (draws, n) to (draws,)."""
    rng = np.random.default_rng(seed)
    samples = values[rng.integers(0, len(values), (draws, len(values)))]
    low, high = np.quantile(statistic(samples), [0.025, 0.975])
    return float(low), float(high)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
