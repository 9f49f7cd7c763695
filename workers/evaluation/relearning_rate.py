"""Find the rate at which relearning is read: the slowest at which a model learns unseen samples soon enough."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from torch import nn

from workers.classification import Classification
from workers.evaluation.relearning_curve import Curve, RelearningProfile, Target, relearn
from workers.samples import LabelledSet

QUICK, SLOW = 4, 2
"""A delay within a quarter of the cap is wanted, since every run costs its steps; within half of it will do."""
SURE_AFTER, BLOWN_UP, LEEWAY, UNSTEADY = 12, 4.0, 1.5, 1.02
"""From this step on a run is given up whose loss is this many times the first, or falls this many times too slowly."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search over one optimiser's rates found: delays by rate, in steps, and where the other runs ended."""

    delays: dict[float, int] = field(default_factory=dict)
    ends: dict[float, float] = field(default_factory=dict)

    @property
    def nearest(self) -> float:
        """Return the lowest loss at which a run ended that did not reach the target."""
        return min(self.ends.values(), default=math.inf)

    def chosen(self, cap: int) -> float | None:
        """Return the smallest rate that was quick, else the one of the shortest delay, else None."""
        quick = [rate for rate, delay in self.delays.items() if delay <= cap // QUICK]
        return min(quick) if quick else min(self.delays, key=lambda rate: self.delays[rate], default=None)


def calibrate(
    parent: nn.Module,
    unseen: LabelledSet,
    *,
    task: Classification,
    target: Target,
    seed: int,
    profile: RelearningProfile,
) -> tuple[float, bool, RelearningProfile]:
    """Return rate, whether it was calibrated, and the profile with the optimiser it is for.

    The optimiser is the profile's, unless Adam alone has a rate that is quick, or any at all. When no rate reaches
    the target, the one whose run came nearest to it is returned, and False: twice the steps may do, and delays are
    comparable with each other also where they are censored. A set that is at the target before any step says
    nothing about rates: the middle of the grid is returned, and False.
    """
    cap = profile.max_steps
    first = search_rates(parent, unseen, task=task, target=target, seed=seed, profile=profile)
    if 0 in first.delays.values():
        return profile.rates[len(profile.rates) // 2], False, profile
    rate = first.chosen(cap)
    if profile.optimizer != "adam" and (rate is None or first.delays[rate] > cap // QUICK):
        adam = replace(profile, optimizer="adam", rates=profile.adam_rates)
        second = search_rates(parent, unseen, task=task, target=target, seed=seed, profile=adam)
        other = second.chosen(cap)
        if other is not None and (rate is None or second.delays[other] <= cap // QUICK):
            return other, True, adam
        if rate is None and second.nearest < first.nearest:
            return min(second.ends, key=second.ends.__getitem__), False, adam
    return (rate, True, profile) if rate is not None else (min(first.ends, key=first.ends.__getitem__), False, profile)


def search_rates(
    parent: nn.Module,
    unseen: LabelledSet,
    *,
    task: Classification,
    target: Target,
    seed: int,
    profile: RelearningProfile,
) -> Search:
    """Look for the smallest rate of the grid at which the parent learns `unseen` within a quarter of the cap.

    By bisection, each run to half of the cap at most: one that was not quick but ended below its first loss was too
    slow, any other too fast.
    """
    search, cap = Search(), profile.max_steps // SLOW
    low, high = 0, len(profile.rates) - 1
    while low <= high:
        middle = (low + high) // 2
        rate = profile.rates[middle]
        curve = relearn(
            parent,
            unseen,
            task=task,
            rate=rate,
            target=target,
            cap=cap,
            seed=seed,
            batch_size=profile.batch_size,
            run_on=0.0,
            optimizer=profile.optimizer,
            hopeless=partial(in_vain, cap, target.loss),
        )
        delay = curve.delay(target)
        if delay is None:
            search.ends[rate] = _end(curve)
        else:
            search.delays[rate] = delay
        if delay == 0:
            break
        quick = delay is not None and delay <= profile.max_steps // QUICK
        if not quick and _end(curve) < float(curve.mean_losses[0]):
            low = middle + 1
        else:
            high = middle - 1
    return search


def in_vain(cap: int, target: float, means: Sequence[float]) -> bool:
    """Say whether a run will not reach `target` by `cap`: it blew up, or its log loss falls far too slowly.

    A loss that first rises, as Adam's does, says nothing of how fast it will fall, but should be back in half the time.
    """
    step, first, now, peak = len(means) - 1, means[0], means[-1], max(means)
    if step < SURE_AFTER or target <= 0:
        return False
    if now >= BLOWN_UP * first or (step >= cap // 2 and now >= first):
        return True
    if not 0 < now < first or peak > UNSTEADY * first:
        return False
    return LEEWAY * math.log(first / now) * cap / step < math.log(first / target)


def mean_loss(model: nn.Module, samples: LabelledSet, task: Classification) -> float:
    """Return the mean loss of the set in nats."""
    return float(task.loss_of_logits(task.predict(model, samples), samples.labels).mean())


def _end(curve: Curve) -> float:
    last = float(curve.mean_losses[-1])
    return last if np.isfinite(last) else math.inf
