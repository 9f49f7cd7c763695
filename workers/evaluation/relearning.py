"""Relearning: how many steps a model needs to know the forget set again, against samples it never saw.

The definition is ours, after Tran & Woo 2026, arXiv:2604.09391. Both sets chase one number: 1.05 L* + 0.05
nats, L* the parent's loss on the forget set, so that the parent's own delay on it is 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
from torch import Tensor, nn

from workers.classification import Classification
from workers.evaluation.relearning_curve import (
    RUN_ON,
    Curve,
    RelearningProfile,
    Target,
    target_loss,
)
from workers.evaluation.relearning_rate import calibrate, mean_loss
from workers.evaluation.relearning_ratio import ratio_result
from workers.evaluation.relearning_stacked import Protocol, Relearner, relearn_all
from workers.evaluation.result import MetricResult
from workers.evaluation.scores import loss
from workers.samples import LabelledSet
from workers.training import Progress, no_progress

DELAYS = ("relearning_delay", "relearning_accuracy_delay", "relearning_area", "relearning_path_length")
DEFAULT_PROFILE = RelearningProfile()


@dataclass(frozen=True, kw_only=True, eq=False)
class RelearningPlan:
    """What is fixed once per parent: the sets, their target and the rate.

    unseen has one set per seed, each with the forget set's labels. parent_norm is ||w_o||. `calibrated` is false
    when no rate reached the target.
    """

    forget: LabelledSet
    unseen: tuple[LabelledSet, ...]
    target: Target
    parent_norm: float
    rate: float
    calibrated: bool
    seed: int
    profile: RelearningProfile


@dataclass(frozen=True, kw_only=True, eq=False)
class RelearningRuns:
    """Hold one model's curves, one per seed on either side."""

    forget: tuple[Curve, ...]
    unseen: tuple[Curve, ...]


def plan_relearning(
    parent: nn.Module,
    forget: LabelledSet,
    unseen: Sequence[LabelledSet],
    *,
    task: Classification,
    seed: int,
    profile: RelearningProfile = DEFAULT_PROFILE,
) -> RelearningPlan:
    """Set the target by the parent on `forget` and calibrate the rate by the parent on its hardest controls.

    The hardest are those of the largest loss: a draw that happens to be known already tells no rate.

    All sets are non-empty, of one size, and on the parent's device.
    """
    logits = task.predict(parent, forget)
    known = float(loss(logits, forget.labels).mean())
    target = Target(loss=target_loss(known), accuracy=0.95 * task.accuracy(logits, forget.labels))
    hardest = max(unseen, key=lambda controls: mean_loss(parent, controls, task))
    rate, calibrated, profile = calibrate(parent, hardest, task=task, target=target, seed=seed, profile=profile)
    return RelearningPlan(
        forget=forget,
        unseen=tuple(unseen),
        target=target,
        parent_norm=_norm(list(parent.parameters())),
        rate=rate,
        calibrated=calibrated,
        seed=seed,
        profile=profile,
    )


def run_relearning(
    model: nn.Module,
    plan: RelearningPlan,
    *,
    task: Classification,
    progress: Progress = no_progress,
    stacked: bool | None = None,
    run_on: float = RUN_ON,
) -> RelearningRuns:
    """Relearn both sets once per seed, from copies of `model`; `stacked` as in relearn_all, `run_on` as in relearn."""
    seeds = [plan.seed + offset for offset in range(len(plan.unseen))]
    # one batch has no order: every seed would walk the same path
    walks = 1 if len(plan.forget) <= plan.profile.batch_size else len(seeds)
    runs = [Relearner(samples=plan.forget, seed=seed) for seed in seeds[:walks]]
    runs += [Relearner(samples=samples, seed=seed) for samples, seed in zip(plan.unseen, seeds, strict=True)]
    protocol = Protocol(
        task=task,
        rate=plan.rate,
        target=plan.target,
        cap=plan.profile.max_steps,
        batch_size=plan.profile.batch_size,
        optimizer=plan.profile.optimizer,
        run_on=run_on,
    )
    curves = relearn_all(
        model, runs, protocol, done=lambda count: progress("relearn", count, len(runs)), stacked=stacked
    )
    forget = curves[:walks] * (len(seeds) // walks)
    return RelearningRuns(forget=forget, unseen=curves[walks:])


def relearning(runs: RelearningRuns, plan: RelearningPlan, *, classes_gone: Sequence[int] = ()) -> list[MetricResult]:
    """Return delays, areas and path lengths of both sets, and the ratio.

    `classes_gone` are forgotten classes of which nothing is left in the retain set: with any, what is left of
    the model generalises to the unseen controls too, and the ratio is not applicable.
    """
    results = []
    for split, curves in (("forget", runs.forget), ("unseen", runs.unseen)):
        n, cap = len(plan.forget), plan.profile.max_steps
        by_loss = [curve.delay(plan.target) for curve in curves]
        by_accuracy = [curve.accuracy_delay(plan.target) for curve in curves]
        results += [
            delay_result(DELAYS[0], split, by_loss, n=n, cap=cap, threshold=plan.target.loss),
            delay_result(DELAYS[1], split, by_accuracy, n=n, cap=cap, threshold=plan.target.accuracy),
            _mean(DELAYS[2], split, [area(c, plan.target) for c in curves], by_loss, n),
            _mean(DELAYS[3], split, [_walked(c, plan) for c in curves], by_loss, n),
        ]
    if classes_gone:
        extra = {"reason": "nothing of these classes is left in the retain set", "classes": [*classes_gone]}
        results.append(MetricResult(name="relearning_ratio", value=None, n=0, verdict="not_applicable", extra=extra))
    else:
        results.append(
            ratio_result(
                runs.forget,
                runs.unseen,
                target=plan.target,
                cap=plan.profile.max_steps,
                seed=plan.seed,
            )
        )
    return results


def no_relearning(reason: str) -> list[MetricResult]:
    """Return every result of the families as not applicable."""
    extra = {"reason": reason}
    pairs = [(name, split) for split in ("forget", "unseen") for name in DELAYS]
    return [
        MetricResult(name=name, split=split, value=None, n=0, verdict="not_applicable", extra=extra)
        for name, split in [*pairs, ("relearning_ratio", None)]
    ]


def area(curve: Curve, target: Target) -> float:
    """Return the loss above the target summed over the steps before it is reached, in nat-steps."""
    delay = curve.delay(target)
    return float(np.sum(curve.mean_losses[:delay] - target.loss))


def compact(curves: Sequence[Curve], points: int = 50) -> list[dict[str, list[float]]]:
    """Return each curve at no more than about `points` steps, JSON-safe; a loss not finite is left out."""
    shown = []
    for curve in curves:
        means = curve.mean_losses
        steps = range(0, len(means), max(1, len(means) // points))
        steps_kept = [step for step in steps if np.isfinite(means[step])]
        shown.append(
            {
                "step": [float(step) for step in steps_kept],
                "loss": [round(float(means[step]), 5) for step in steps_kept],
                "accuracy": [round(float(curve.accuracies[step]), 5) for step in steps_kept],
            }
        )
    return shown


def delay_result(
    name: str, split: str, delays: Sequence[int | None], *, n: int, cap: int, threshold: float
) -> MetricResult:
    """Return the lower median of the seeds' delays; at the cap a lower bound, marked censored."""
    # the lower median: averaging two delays would average a cap
    middle = median_low([math.inf if delay is None else delay for delay in delays])
    return MetricResult(
        name=name,
        split=split,
        value=float(min(middle, cap)),
        n=n,
        threshold=threshold,
        censored=True if middle > cap else None,
        extra={"per_seed": list(delays), "cap": cap},
    )


def _mean(name: str, split: str, values: Sequence[float], delays: Sequence[int | None], n: int) -> MetricResult:
    return MetricResult(
        name=name,
        split=split,
        value=float(np.mean(values)),
        n=n,
        censored=True if None in delays else None,
        extra={"per_seed": list(values)},
    )


def _walked(curve: Curve, plan: RelearningPlan) -> float:
    delay = curve.delay(plan.target)
    walked = float(curve.path[-1 if delay is None else delay])
    # weights that are all zero have no length to be a share of
    return walked / plan.parent_norm if plan.parent_norm else walked


def _norm(weights: Sequence[Tensor]) -> float:
    return float(np.sqrt(sum(float(w.detach().double().square().sum()) for w in weights)))
