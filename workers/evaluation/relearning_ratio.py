"""Ratios of relearning delays: of one model's forget set to its unseen controls, or of two models on one set.

Zeros are met by half a step: the ratio of a seed is (T_forget + 1/2) / (T_unseen + 1/2), so 0 over 0 is 1. A
forget set known from the start (T_forget = 0) against T_unseen = 100 reads 1/201, and the reverse 201.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    """Return the ratio of one model's delays on the forget set to those on its unseen controls."""
    found = delay_ratio(NAME, {"forget": forget, "unseen": unseen}, target=target, cap=cap, seed=seed)
    if found.value is None:
        return found
    return replace(found, extra={**(found.extra or {}), "null": null_ratio(unseen, target=target, seed=seed)})


def delay_ratio(
    name: str,
    sides: Mapping[str, Sequence[Curve]],
    *,
    target: Target,
    cap: int,
    seed: int,
    same_samples: bool = False,
    cell_seeds: Sequence[int] | None = None,
) -> MetricResult:
    """Return exp of the mean over cells of the paired log ratio of the first side's delay to the second's.

    A delay that hit the cap is never averaged as a number. The first side at the cap: the value is a lower bound.
    The second: an upper bound. Both within one cell, or each in some cell: inconclusive, with the difference of the
    areas. Bounds are `censored`, and `extra` says which. The rest as in bootstrap_ratio. Sides are not empty.
    """
    (ours_name, ours), (theirs_name, theirs) = sides.items()
    pairs = [(a.delay(target), b.delay(target)) for a, b in zip(ours, theirs, strict=True)]
    extra: dict[str, object] = {
        f"{ours_name}_per_seed": [a for a, _ in pairs],
        f"{theirs_name}_per_seed": [b for _, b in pairs],
    }
    n, missed = ours[0].losses.shape[1], [None in side for side in zip(*pairs, strict=True)]
    if not all(np.isfinite(curve.losses[-1]).all() for curve in (*ours, *theirs)):
        extra["reason"] = "the loss of a run stopped being finite: its delay is not known, however far it would go"
        return MetricResult(name=name, value=None, n=n, verdict="inconclusive", extra=extra)
    if all(missed):
        extra["area_difference"] = _mean_area(ours, target) - _mean_area(theirs, target)
        return MetricResult(name=name, value=None, n=n, verdict="inconclusive", censored=True, extra=extra)
    logs = [np.log(((cap if a is None else a) + 0.5) / ((cap if b is None else b) + 0.5)) for a, b in pairs]
    if any(missed):
        extra["bound"] = "lower" if missed[0] else "upper"
    interval = bootstrap_ratio(ours, theirs, target=target, seed=seed, same_samples=same_samples, cell_seeds=cell_seeds)
    return MetricResult(
        name=name,
        value=float(np.exp(np.mean(logs))),
        ci95=interval,
        n=n,
        censored=True if any(missed) else None,
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
    same_samples: bool = False,
    cell_seeds: Sequence[int] | None = None,
) -> Interval:
    """Return the percentile interval over resampled seeds and samples.

    A resample weighs the samples whose loss is read; the target, one stored number, and the walked path stay.
    Where its controls never get there the ratio counts as 0, where its forget set does not the delay counts as
    the run's length, so that the lower edge is never too high.

    With `same_samples` both sides read one set and are weighed alike. `cell_seeds` are the seeds of the curves where
    several share one: a seed is drawn with all its curves, which share their controls and their order. In either
    case what neither side reaches in a resample tells nothing and is left out of it; (0, inf) when nothing is left.
    """
    rng = np.random.default_rng(seed)
    n = forget[0].losses.shape[1]
    ours = _weights(rng, n, resamples)
    theirs = ours if same_samples else _weights(rng, n, resamples)
    # one weighing for all seeds: their sets overlap, and independent ones would average the noise away
    cells = np.empty((len(forget), resamples))
    for cell, (own, other) in enumerate(zip(forget, unseen, strict=True)):
        mine, yours = _delays(own, ours, target), _delays(other, theirs, target)
        steps = np.where(mine < 0, len(own.losses), mine)
        with np.errstate(divide="ignore"):
            cells[cell] = np.log(np.where(yours < 0, 0.0, (steps + 0.5) / (np.maximum(yours, 0) + 0.5)))
        if same_samples or cell_seeds is not None:
            cells[cell, (mine < 0) & (yours < 0)] = np.nan
    sums, told = _by_seed(cells, range(len(cells)) if cell_seeds is None else cell_seeds)
    picked = rng.integers(0, len(sums), sums.shape)
    total, counts = (np.take_along_axis(each, picked, axis=0).sum(0) for each in (sums, told))
    ratios = np.exp(total[counts > 0] / counts[counts > 0])
    return percentile_interval(ratios) if len(ratios) else (0.0, np.inf)


def _by_seed(cells: Floats, cell_seeds: Sequence[int]) -> tuple[Floats, Floats]:
    """Return, for each seed and resample, the sum of its cells (C, R) that are numbers and their count, (S, R)."""
    seeds, known = np.asarray(cell_seeds), ~np.isnan(cells)
    rows = [seeds == each for each in np.unique(seeds)]
    sums = np.stack([np.nansum(cells[row], axis=0) for row in rows])
    return sums, np.stack([known[row].sum(0, dtype=np.float64) for row in rows])


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
