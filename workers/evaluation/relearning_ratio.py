"""The relearning ratio of one model: its delay on the forget set over its delay on unseen controls.

Zeros are met by half a step: the ratio of a seed is (T_forget + 1/2) / (T_unseen + 1/2), so 0 over 0 is 1. A
forget set known from the start (T_forget = 0) against T_unseen = 100 reads 1/201, and the reverse 201.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.intervals import Floats, Interval, percentile_interval
from workers.evaluation.relearning_curve import Curve, Target
from workers.evaluation.result import MetricResult

NAME = "relearning_ratio"
DRAWS = 1000


def ratio_result(
    forget: Sequence[Curve],
    unseen: Sequence[Curve],
    *,
    target: Target,
    cap: int,
    seed: int,
) -> MetricResult:
    """Return exp of the mean over seeds of the paired log ratio.

    A delay that hit the cap is never averaged as a number. Forget sets at the cap: the value is a lower bound.
    Controls at the cap: an upper bound. Both within one seed, or each in some seed: inconclusive, with the
    difference of the areas. Bounds are `censored`, and `extra` says which side.
    """
    ours = [curve.delay(target) for curve in forget]
    theirs = [curve.delay(target) for curve in unseen]
    extra: dict[str, object] = {"forget_per_seed": ours, "unseen_per_seed": theirs}
    n = forget[0].losses.shape[1]
    if not all(np.isfinite(curve.losses[-1]).all() for curve in (*forget, *unseen)):
        extra["reason"] = "the loss of a run stopped being finite: its delay is not known, however far it would go"
        return MetricResult(name=NAME, value=None, n=n, verdict="inconclusive", extra=extra)
    if None in ours and None in theirs:
        extra["area_difference"] = _mean_area(forget, target) - _mean_area(unseen, target)
        return MetricResult(name=NAME, value=None, n=n, verdict="inconclusive", censored=True, extra=extra)
    known = [
        np.log(((cap if a is None else a) + 0.5) / ((cap if b is None else b) + 0.5))
        for a, b in zip(ours, theirs, strict=True)
    ]
    bound = "lower" if None in ours else "upper" if None in theirs else None
    if bound is not None:
        extra["bound"] = bound
    interval = bootstrap_ratio(forget, unseen, target=target, seed=seed)
    extra["null"] = null_ratio(unseen, target=target, seed=seed)
    return MetricResult(
        name=NAME,
        value=float(np.exp(np.mean(known))),
        ci95=interval,
        n=n,
        censored=True if bound is not None else None,
        extra=extra,
    )


def null_ratio(unseen: Sequence[Curve], *, target: Target, seed: int) -> dict[str, object] | None:
    """Return value and interval of the ratio of each seed's controls to the next seed's; None when one hit the cap.

    What sets that nobody saw read against each other: an interval no wider than this can be hoped for.
    """
    delays = [curve.delay(target) for curve in unseen]
    if len(unseen) < 2 or None in delays:
        return None
    turned = [*unseen[1:], unseen[0]]
    logs = [np.log((a + 0.5) / (b + 0.5)) for a, b in pairwise([*delays, delays[0]]) if a is not None and b is not None]
    interval = bootstrap_ratio(unseen, turned, target=target, seed=seed)
    return {"value": float(np.exp(np.mean(logs))), "ci95": interval}


def bootstrap_ratio(
    forget: Sequence[Curve],
    unseen: Sequence[Curve],
    *,
    target: Target,
    seed: int,
    resamples: int = DRAWS,
) -> Interval:
    """Return the percentile interval over resampled seeds and samples.

    A resample weighs the samples whose loss is read; the target, one stored number, and the walked path stay.
    Where its controls never get there the ratio counts as 0, where its forget set does not the delay counts as
    the run's length, so that the lower edge is never too high.
    """
    rng = np.random.default_rng(seed)
    n = forget[0].losses.shape[1]
    ours, theirs = _weights(rng, n, resamples), _weights(rng, n, resamples)
    # one weighing for all seeds: their sets overlap, and independent ones would average the noise away
    cells = np.empty((len(forget), resamples))
    for cell, (own, other) in enumerate(zip(forget, unseen, strict=True)):
        mine, yours = _delays(own, ours, target), _delays(other, theirs, target)
        steps = np.where(mine < 0, len(own.losses), mine)
        with np.errstate(divide="ignore"):
            cells[cell] = np.log(np.where(yours < 0, 0.0, (steps + 0.5) / (np.maximum(yours, 0) + 0.5)))
    picked = rng.integers(0, len(forget), (len(forget), resamples))
    ratios = np.exp(np.take_along_axis(cells, picked, axis=0).mean(0))
    return percentile_interval(ratios)


def _weights(rng: np.random.Generator, n: int, resamples: int) -> Floats:
    counts: Floats = rng.multinomial(n, np.full(n, 1 / n), size=resamples).T / n
    return counts


def _delays(curve: Curve, weights: Floats, target: Target) -> NDArray[np.int64]:
    """Return the first step at the target for every resample, (R,); -1 where there is none."""
    # a row that is not finite reached nothing; infinity itself would turn a weight of 0 into nan
    reached = np.nan_to_num(curve.losses, nan=1e30, posinf=1e30) @ weights <= target.loss
    return np.where(reached.any(0), reached.argmax(0), -1)


def _mean_area(curves: Sequence[Curve], target: Target) -> float:
    return float(np.mean([np.sum(c.mean_losses[: c.delay(target)] - target.loss) for c in curves]))
