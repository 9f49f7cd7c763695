"""95 % intervals of differences: two models on the same samples, or two groups under one model. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from workers.evaluation.intervals import Z95, Floats, Interval, wilson


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """A figure and its interval, which holds it."""

    value: float
    ci95: Interval


def auc_change(before: tuple[Floats, Floats], after: tuple[Floats, Floats]) -> Estimated:
    """Return AUC after minus AUC before, each from the scores of (members, controls); the same samples both times.

    DeLong et al. 1988 for correlated curves: the variance is that of each sample's change of placement. Where it
    vanishes, as between equal models, the width is that of a rate of 0 among as many trials as the smaller side has.
    Raises ValueError for an empty side or sides of unequal length.
    """
    n, m = len(before[0]), len(before[1])
    if not n or not m or (n, m) != (len(after[0]), len(after[1])):
        raise ValueError("a change of AUC needs the same samples before and after, on both sides")
    moved = [a - b for a, b in zip(_placements(*after), _placements(*before), strict=True)]
    change = float(moved[0].mean())
    variance = sum(float(side.var(ddof=1)) / len(side) for side in moved) if min(n, m) > 1 else 0.0
    half = Z95 * math.sqrt(variance) if variance > 0 else wilson(0, min(n, m))[1]
    return Estimated(value=change, ci95=(max(-1.0, change - half), min(1.0, change + half)))


def rate_difference(ours: int, n: int, theirs: int, m: int) -> Estimated:
    """Return ours / n - theirs / m for independent groups, with Newcombe's interval (1998, method 10); n, m > 0."""
    p, q = ours / n, theirs / m
    (low_p, high_p), (low_q, high_q) = wilson(ours, n), wilson(theirs, m)
    low, high = p - q - math.hypot(p - low_p, high_q - q), p - q + math.hypot(high_p - p, q - low_q)
    return Estimated(value=p - q, ci95=(max(-1.0, low), min(1.0, high)))


def size_of(found: Estimated) -> Estimated:
    """Return the absolute value; its interval starts at 0 where the figure's own holds 0."""
    low, high = found.ci95
    edges = sorted((abs(low), abs(high)))
    return Estimated(value=abs(found.value), ci95=(0.0 if low <= 0 <= high else edges[0], edges[1]))


def sum_of(sizes: Sequence[Estimated]) -> Estimated:
    """Return the sum of independent figures that are never negative, by the square-and-add rule (Zou & Donner 2008).

    A size near 0 is biased upwards by its noise. So one adds to the lower edge only if it is clear of 0 at the
    level of all together (Bonferroni): where all of them are 0, the interval still covers 0 in 95 % or more.
    """
    total = sum(size.value for size in sizes)
    above = math.hypot(*(size.ci95[1] - size.value for size in sizes))
    wider = float(norm.ppf(1 - 0.025 / len(sizes))) / Z95
    clear = [size for size in sizes if size.value > wider * (size.value - size.ci95[0])]
    below = math.hypot(*(size.value - size.ci95[0] for size in clear))
    return Estimated(value=total, ci95=(max(0.0, sum(size.value for size in clear) - below), total + above))


def _placements(members: Floats, controls: Floats) -> tuple[Floats, Floats]:
    """Return the share of controls below each member, and of members above each control, ties half."""
    n, m = len(members), len(controls)
    ranks = rankdata(np.concatenate([members, controls]))
    return (ranks[:n] - rankdata(members)) / m, 1 - (ranks[n:] - rankdata(controls)) / n
