"""Relearning of a generation model: how many steps until its loss on the forget set is what the original's was.

As in workers.evaluation.relearning, with three differences. The loss is the noise-prediction error on common draws, and
both sets chase 1.02 L*, L* the original's loss on the forget set: members and unseen samples lie a few hundredths
apart, so that a target for classifiers would be met before any step; where nothing but forgotten classes is relearned,
of which nobody knows unseen samples either, 1.1 L*. What is trained and read is the average that
samples are drawn by. And SGD and Adam are always both run, each at a rate of its own: Tran & Woo 2026,
arXiv:2604.09391, report that what withstands one does not withstand the other.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from workers.architectures.ddpm import Ddpm
from workers.diffusion import Diffusion
from workers.evaluation.intervals import Floats
from workers.evaluation.measure import NOTHING_TO_RELEARN
from workers.evaluation.relearning import RelearningPlan, RelearningRuns, no_relearning, relearning
from workers.evaluation.relearning_curve import (
    RULES,
    RUN_ON,
    Curve,
    RelearningProfile,
    Rule,
    Target,
    ending,
    endless_batches,
    reading_steps,
)
from workers.evaluation.relearning_ratio import delay_ratio
from workers.evaluation.result import MetricResult
from workers.evaluation.unseen_controls import ControlPairs, draw_controls
from workers.reproducibility import derived_seed
from workers.samples import LabelledSet
from workers.training import take_step

ABOVE, ABOVE_GONE = 1.02, 1.1
READ_DRAWS = 4
DEFAULT_RELEARNING = RelearningProfile(
    seeds=2,
    max_samples=64,
    max_steps=80,
    batch_size=32,
    rates=(0.003, 0.01, 0.03, 0.1),
    adam_rates=(0.0003, 0.001, 0.003),
)
TRIAL = 4
"""A rate is tried for this part of the cap."""
ADAM = {
    "relearning_delay": "relearning_adam.delay",
    "relearning_ratio": "relearning_adam.ratio",
    "anamnesis": "relearning_adam.anamnesis",
}
NO_ACCURACY = "relearning_accuracy_delay"
"""A generation model has no accuracy to be relearned."""
Plans = Mapping[Rule, RelearningPlan]
Runs = Mapping[Rule, RelearningRuns]


def plan_relearning(
    parent: nn.Module,
    forget: LabelledSet,
    unseen: Sequence[LabelledSet],
    *,
    seed: int,
    above: float = ABOVE,
    profile: RelearningProfile = DEFAULT_RELEARNING,
) -> Plans:
    """Set the target, `above` times the parent's loss on `forget`, and each optimiser's rate.

    Rates are found by the parent on its hardest controls, those of the largest loss.

    All sets are non-empty, of one size, and on the parent's device.
    """
    read = Diffusion(seed=seed, measured_draws=READ_DRAWS)
    known = float(read.measured_losses(parent, forget).double().mean())
    target = Target(loss=above * known, accuracy=1.0)
    hardest = max(unseen, key=lambda controls: float(read.measured_losses(parent, controls).mean()))
    norm = float(get_total_norm([w.detach() for w in _scratch(parent).parameters()]))
    grids: dict[Rule, tuple[float, ...]] = {"sgd": profile.rates, "adam": profile.adam_rates}
    plans: dict[Rule, RelearningPlan] = {}
    for rule, rates in grids.items():
        own = replace(profile, optimizer=rule, rates=rates)
        rate, calibrated = _calibrated(parent, hardest, target, own, seed=seed)
        plans[rule] = RelearningPlan(
            forget=forget,
            unseen=tuple(unseen),
            target=target,
            parent_norm=norm,
            rate=rate,
            calibrated=calibrated,
            seed=seed,
            profile=own,
        )
    return plans


def plans_for_pairs(
    parent: nn.Module,
    forget: LabelledSet,
    audit: LabelledSet,
    pairs: ControlPairs,
    *,
    generator: torch.Generator,
    gone: Tensor,
    profile: RelearningProfile = DEFAULT_RELEARNING,
) -> Plans | None:
    """Fix the sets, with a draw of controls per seed; None when there is no control, or no finite loss to chase.

    Samples of classes that are `gone` come in only when there are no others: unseen ones are no yardstick for them.
    """
    left = pairs.forget[~torch.isin(forget.labels.cpu()[pairs.forget], gone)]
    chosen = forget.take((left if len(left) else pairs.forget)[: profile.max_samples])
    if not len(chosen):
        return None
    unseen = []
    for _ in range(profile.seeds):
        drawn = draw_controls(chosen.labels, audit.labels, generator=generator)
        # sorted, so that equal sets are equal sample by sample
        unseen.append(audit.take(drawn.audit.sort().values))
    above = ABOVE if len(left) else ABOVE_GONE
    plans = plan_relearning(parent, chosen, unseen, seed=derived_seed(generator), above=above, profile=profile)
    return plans if math.isfinite(plans["sgd"].target.loss) else None


def only_gone(plans: Plans | None, gone: Tensor) -> list[int]:
    """Return the classes that are gone if the set to relearn has samples of no other, else none."""
    if plans is None or not bool(torch.isin(plans["sgd"].forget.labels.cpu(), gone).all()):
        return []
    found: list[int] = gone.tolist()
    return found


def run_relearning(
    model: nn.Module,
    plans: Plans,
    *,
    with_unseen: bool = True,
    run_on: float = RUN_ON,
) -> dict[Rule, RelearningRuns]:
    """Relearn both sets once per seed by every plan, from copies of `model`; the controls only if they say anything."""
    runs: dict[Rule, RelearningRuns] = {}
    for rule, plan in plans.items():
        seeds = range(plan.seed, plan.seed + len(plan.unseen))
        forget = tuple(_by_plan(model, plan.forget, plan, seed, run_on) for seed in seeds)
        unseen = zip(plan.unseen, seeds, strict=True) if with_unseen else ()
        runs[rule] = RelearningRuns(
            forget=forget, unseen=tuple(_by_plan(model, samples, plan, seed, run_on) for samples, seed in unseen)
        )
    return runs


def relearning_results(
    runs: Runs | None, plans: Plans | None, *, classes_gone: Sequence[int] = ()
) -> list[MetricResult]:
    """Return delays, areas, paths and the ratio under SGD, and delays and the ratio under Adam.

    `classes_gone` as in workers.evaluation.relearning: with any, unseen samples are no yardstick. Without runs all
    are not applicable.
    """
    if runs is None or plans is None:
        found = [each for each in no_relearning(NOTHING_TO_RELEARN) if each.name != NO_ACCURACY]
        return [*found, *_renamed(found)]
    found = []
    for rule, plan in plans.items():
        results = [r for r in _of_sides(runs[rule], plan, classes_gone) if r.name != NO_ACCURACY]
        told = {"optimizer": rule, "rate": plan.rate, "calibrated": plan.calibrated}
        results = [replace(result, extra={**(result.extra or {}), **told}) for result in results]
        found += results if rule == "sgd" else _renamed(results)
    return found


def anamnesis(runs: Runs, plans: Plans, *, retrained: Runs) -> list[MetricResult]:
    """Return the delay on the forget set over the retrained model's, under SGD and under Adam."""
    results = []
    for rule, plan in plans.items():
        name = "anamnesis" if rule == "sgd" else ADAM["anamnesis"]
        sides = {"unlearned": runs[rule].forget, "retrained": retrained[rule].forget}
        results.append(
            delay_ratio(name, sides, target=plan.target, cap=plan.profile.max_steps, seed=plan.seed, same_samples=True)
        )
    return results


def relearn(
    model: nn.Module,
    samples: LabelledSet,
    *,
    rate: float,
    target: Target,
    cap: int,
    seed: int,
    batch_size: int,
    optimizer: Rule,
    draws_of: int,
    run_on: float = RUN_ON,
) -> Curve:
    """Train a copy of `model` on `samples` and return its curve; the losses are read on the draws of seed `draws_of`.

    Ends as workers.evaluation.relearning_curve.relearn does. Each seed steps on draws of its own.
    """
    scratch = _scratch(model)
    weights = list(scratch.parameters())
    rule = RULES[optimizer](weights, rate)
    steps = Diffusion(seed=seed, label_dropout=0.0)
    read = Diffusion(seed=draws_of, measured_draws=READ_DRAWS)
    batches, reads = endless_batches(len(samples), batch_size, seed), reading_steps(cap)
    losses: list[Floats] = []
    path, end = [0.0], cap
    for step in range(cap + 1):
        losses.append(_read(read, scratch, samples) if step in reads else losses[-1])
        mean = float(losses[-1].mean())
        end = ending(step, end, cap, met=mean <= target.loss, run_on=run_on)
        if step >= end or not np.isfinite(mean):
            break
        batch = samples.take(next(batches))
        path.append(path[-1] + _walk(rule, weights, steps.per_sample_loss(scratch, batch.images, batch.labels).mean()))
    return Curve(losses=np.stack(losses), accuracies=np.zeros(len(losses)), path=np.array(path))


def curves_part(runs: Mapping[str, Runs], plans: Plans | None) -> dict[str, Any]:
    """Return the curves under SGD by model, as reports of classifiers have them, and those under Adam beside them."""
    if plans is None:
        return {}
    parts = {rule: _curves(plan, {who: found[rule] for who, found in runs.items()}) for rule, plan in plans.items()}
    return {**parts["sgd"], "adam": parts["adam"]}


def _curves(plan: RelearningPlan, runs: Mapping[str, RelearningRuns]) -> dict[str, Any]:
    shown = {who: {"forget": compact(run.forget), "unseen": compact(run.unseen)} for who, run in runs.items()}
    return {
        "target_loss": plan.target.loss,
        "target_accuracy": None,
        "rate": plan.rate,
        "rate_calibrated": plan.calibrated,
        "max_steps": plan.profile.max_steps,
        **shown,
    }


def compact(curves: Sequence[Curve], points: int = 50) -> list[dict[str, list[float]]]:
    """Return each curve at no more than about `points` steps, JSON-safe; there are no accuracies."""
    shown = []
    for curve in curves:
        means = curve.mean_losses
        steps = [step for step in range(0, len(means), max(1, len(means) // points)) if np.isfinite(means[step])]
        losses = [round(float(means[step]), 5) for step in steps]
        shown.append({"step": [float(step) for step in steps], "loss": losses, "accuracy": []})
    return shown


def _of_sides(runs: RelearningRuns, plan: RelearningPlan, classes_gone: Sequence[int]) -> list[MetricResult]:
    if runs.unseen:
        return relearning(runs, plan, classes_gone=classes_gone)
    both = relearning(replace(runs, unseen=runs.forget), plan, classes_gone=classes_gone)
    reason = {"reason": "unseen samples of a class that is gone are no yardstick"}
    return [
        MetricResult(name=r.name, split=r.split, value=None, n=0, verdict="not_applicable", extra=reason)
        if r.split == "unseen"
        else r
        for r in both
    ]


def _renamed(results: Sequence[MetricResult]) -> list[MetricResult]:
    return [replace(result, name=ADAM[result.name]) for result in results if result.name in ADAM]


def _calibrated(
    parent: nn.Module, hardest: LabelledSet, target: Target, profile: RelearningProfile, *, seed: int
) -> tuple[float, bool]:
    """Return the rate at which the parent is soonest at the target, or comes nearest to it, and which it was.

    A set that is there before any step says nothing about rates: the middle of the grid is returned, and False.
    """
    delays: dict[float, int] = {}
    ends: dict[float, float] = {}
    for rate in profile.rates:
        curve = relearn(
            parent,
            hardest,
            rate=rate,
            target=target,
            cap=profile.max_steps // TRIAL,
            seed=seed,
            batch_size=profile.batch_size,
            optimizer=profile.optimizer,
            draws_of=seed,
            run_on=0.0,
        )
        delay = curve.delay(target)
        if delay == 0:
            return profile.rates[len(profile.rates) // 2], False
        if delay is not None:
            delays[rate] = delay
        last = float(curve.mean_losses[-1])
        ends[rate] = last if np.isfinite(last) else np.inf
    if delays:
        return min(delays, key=delays.__getitem__), True
    return min(ends, key=ends.__getitem__), False


def _by_plan(model: nn.Module, samples: LabelledSet, plan: RelearningPlan, seed: int, run_on: float) -> Curve:
    return relearn(
        model,
        samples,
        rate=plan.rate,
        target=plan.target,
        cap=plan.profile.max_steps,
        seed=seed,
        batch_size=plan.profile.batch_size,
        optimizer=plan.profile.optimizer,
        draws_of=plan.seed,
        run_on=run_on,
    )


def _scratch(model: nn.Module) -> Ddpm:
    """Return a copy to train whose weights are the average; in eval mode no new average is taken."""
    if not isinstance(model, Ddpm):
        raise TypeError(f"a generation model is a Ddpm, not a {type(model).__name__}")
    scratch = copy.deepcopy(model).requires_grad_(requires_grad=True).eval()
    scratch.restart_average()
    return scratch


def _read(task: Diffusion, scratch: nn.Module, samples: LabelledSet) -> Floats:
    losses: Floats = task.measured_losses(scratch, samples).double().mean(1).cpu().numpy()
    return losses


def _walk(rule: torch.optim.Optimizer, weights: list[nn.Parameter], objective: Tensor) -> float:
    """Take a step and return its length."""
    before = [w.detach().clone() for w in weights]
    take_step(rule, objective)
    return float(get_total_norm([w.detach() - b for w, b in zip(weights, before, strict=True)]))
