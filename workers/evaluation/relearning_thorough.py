"""The thorough relearning profile and anamnesis: for benchmarks and on request, never what a gate reads by default.

Three rates around the calibrated one, three seeds, SGD and Adam; against unseen controls and, where there is one,
against a retrained model on the same set. A cell is one rate, seed and optimiser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from workers.classification import Classification
from workers.evaluation.relearning import (
    DEFAULT_PROFILE,
    RelearningPlan,
    RelearningRuns,
    plan_relearning,
    run_relearning,
)
from workers.evaluation.relearning_curve import Curve, RelearningProfile, Rule
from workers.evaluation.relearning_fresh_head import NAME as HEAD
from workers.evaluation.relearning_fresh_head import head_delay
from workers.evaluation.relearning_rate import mean_loss, search_rates
from workers.evaluation.relearning_ratio import delay_ratio
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import no_figure
from workers.samples import LabelledSet
from workers.training import Progress, no_progress

SPREAD = (0.5, 1.0, 2.0)
"""The rates of the profile, as multiples of the calibrated one."""
RATIO, ANAMNESIS = "relearning_thorough.ratio", "relearning_thorough.anamnesis"
NO_RETRAINED = "needs a retrained model"


def thorough_relearning(
    model: nn.Module,
    parent: nn.Module,
    *,
    forget: LabelledSet,
    unseen: Sequence[LabelledSet],
    task: Classification,
    seed: int,
    retrained: nn.Module | None = None,
    profile: RelearningProfile = DEFAULT_PROFILE,
    classes_gone: Sequence[int] = (),
    progress: Progress = no_progress,
) -> list[MetricResult]:
    """Relearn by the thorough profile and return its ratio, its anamnesis and the delay under a fresh head.

    Sets as in plan_relearning; `classes_gone` as in relearning. No model given is changed.
    """
    if not len(forget) or not unseen:
        reason = "needs at least 1 forget sample and a draw of controls"
        return [no_figure(name, "not_applicable", reason) for name in (RATIO, ANAMNESIS, HEAD)]
    base = plan_relearning(parent, forget, unseen, task=task, seed=seed, profile=profile)
    plans = plan_thorough(parent, base, task=task, profile=profile)
    runs = run_thorough(model, plans, task=task, progress=progress)
    theirs = () if retrained is None else run_thorough(retrained, plans, task=task, progress=progress)
    results = thorough_results(runs, plans, retrained=theirs, classes_gone=classes_gone)
    return [*results, head_delay(model, base, task=task)]


def plan_thorough(
    parent: nn.Module, base: RelearningPlan, *, task: Classification, profile: RelearningProfile = DEFAULT_PROFILE
) -> tuple[RelearningPlan, ...]:
    """Return a plan per optimiser and rate, SGD first: `base`, made by `profile`, gives its own optimiser's rate."""
    hardest = max(base.unseen, key=lambda controls: mean_loss(parent, controls, task))
    grids: dict[Rule, tuple[float, ...]] = {"sgd": profile.rates, "adam": profile.adam_rates}
    plans = []
    for optimizer, rates in grids.items():
        own = base
        if optimizer != base.profile.optimizer:
            own = _calibrated(parent, hardest, replace(profile, optimizer=optimizer, rates=rates), base, task=task)
        plans += [replace(own, rate=own.rate * times) for times in SPREAD]
    return tuple(plans)


def _calibrated(
    parent: nn.Module, hardest: LabelledSet, profile: RelearningProfile, base: RelearningPlan, *, task: Classification
) -> RelearningPlan:
    """Return `base` by another profile, whose optimiser alone is searched for a rate."""
    found = search_rates(parent, hardest, task=task, target=base.target, seed=base.seed, profile=profile)
    rate = found.chosen(profile.max_steps)
    # controls known before any step say nothing about rates
    calibrated = rate is not None and 0 not in found.delays.values()
    rate = min(found.ends, key=found.ends.__getitem__) if rate is None else rate
    return replace(base, profile=profile, rate=rate, calibrated=calibrated)


def run_thorough(
    model: nn.Module, plans: Sequence[RelearningPlan], *, task: Classification, progress: Progress = no_progress
) -> tuple[RelearningRuns, ...]:
    """Relearn both sets by every plan, from copies of `model`."""
    return tuple(run_relearning(model, plan, task=task, progress=progress) for plan in plans)


def thorough_results(
    runs: Sequence[RelearningRuns],
    plans: Sequence[RelearningPlan],
    *,
    retrained: Sequence[RelearningRuns] = (),
    classes_gone: Sequence[int] = (),
) -> list[MetricResult]:
    """Return the ratio over all cells to unseen controls, and anamnesis, that to the retrained model's runs.

    `classes_gone` as in relearning: with any, the ratio to unseen controls is not applicable; anamnesis is.
    """
    if classes_gone:
        reason = "nothing of these classes is left in the retain set: " + ", ".join(map(str, classes_gone))
        ratio = no_figure(RATIO, "not_applicable", reason)
    else:
        ratio = _to_unseen(runs, plans)
        if retrained:
            # the yardstick measured: a model that never saw the set should read 1
            beside = _to_unseen(retrained, plans)
            checked = {"value": beside.value, "ci95": beside.ci95, "bound": (beside.extra or {}).get("bound")}
            ratio = replace(ratio, extra={**(ratio.extra or {}), "retrained": checked})
    if not retrained:
        return [ratio, no_figure(ANAMNESIS, "not_applicable", NO_RETRAINED)]
    sides = {"unlearned": [r.forget for r in runs], "retrained": [r.forget for r in retrained]}
    return [ratio, _over_cells(ANAMNESIS, sides, plans, same_samples=True)]


def anamnesis(runs: RelearningRuns, plan: RelearningPlan, *, retrained: RelearningRuns | None) -> MetricResult:
    """Return the unlearned model's delay on the forget set over the retrained model's; both ran by `plan`.

    Holds for whole classes too: the retrained model never saw them. Chundawat et al. 2023, arXiv:2201.05629, take
    accuracy near the original's where this takes the loss.
    """
    if retrained is None or not runs.forget:
        return no_figure("anamnesis", "not_applicable", NO_RETRAINED)
    return delay_ratio(
        "anamnesis",
        {"unlearned": runs.forget, "retrained": retrained.forget},
        target=plan.target,
        cap=plan.profile.max_steps,
        seed=plan.seed,
        same_samples=True,
    )


def _to_unseen(runs: Sequence[RelearningRuns], plans: Sequence[RelearningPlan]) -> MetricResult:
    sides = {"forget": [r.forget for r in runs], "unseen": [r.unseen for r in runs]}
    return _over_cells(RATIO, sides, plans, same_samples=False)


def _over_cells(
    name: str, sides: Mapping[str, Sequence[Sequence[Curve]]], plans: Sequence[RelearningPlan], *, same_samples: bool
) -> MetricResult:
    """Return the ratio over the cells in which at least one side got there; the others are counted."""
    (ours_name, ours), (theirs_name, theirs) = sides.items()
    target = plans[0].target
    cells = [
        (seed, own, other)
        for mine, yours in zip(ours, theirs, strict=True)
        for seed, (own, other) in enumerate(zip(mine, yours, strict=True))
    ]
    told = [cell for cell in cells if any(curve.delay(target) is not None for curve in cell[1:])]
    # with no cell told all are given, which is inconclusive
    seeds, kept, against = zip(*(told or cells), strict=True)
    found = delay_ratio(
        name,
        {ours_name: kept, theirs_name: against},
        target=target,
        cap=plans[0].profile.max_steps,
        seed=plans[0].seed,
        same_samples=same_samples,
        cell_seeds=seeds,
    )
    settings = [
        {
            "optimizer": plan.profile.optimizer,
            "rate": plan.rate,
            "calibrated": plan.calibrated,
            ours_name: [curve.delay(target) for curve in mine],
            theirs_name: [curve.delay(target) for curve in yours],
        }
        for plan, mine, yours in zip(plans, ours, theirs, strict=True)
    ]
    # the delays of every cell stand in the settings
    shown = {key: value for key, value in (found.extra or {}).items() if not key.endswith("_per_seed")}
    left_out = len(cells) - len(told)
    return replace(found, extra={**shown, "settings": settings, "cells_left_out": left_out})
