"""Gather what the plots are drawn from out of what an evaluation holds in memory. Measures nothing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from workers.evaluation.intervals import Floats
from workers.evaluation.measure import BySplit, Draws
from workers.evaluation.plots.data import SPLITS, Estimate, ModelSeries, PlotData, Relearned
from workers.evaluation.relearning import RelearningPlan, RelearningRuns
from workers.evaluation.relearning_curve import Curve, Target
from workers.evaluation.result import MetricResult
from workers.evaluation.scores import loss, phi

PHI_AUC = "mia_threshold.phi.auc"
DELAY = "relearning_delay"


def gather(
    logits: Mapping[str, BySplit],
    labels: BySplit,
    draws: Draws,
    *,
    runs: Mapping[str, RelearningRuns],
    plan: RelearningPlan | None,
    results: Mapping[str, Sequence[MetricResult]],
) -> PlotData:
    """Return the plots' data of the models named in `results`: parent, unlearned, and retrained where there is one.

    A model without logits or runs has none of what they would give.
    """
    models = {
        who: _series(logits.get(who), labels, draws, runs.get(who), plan, found) for who, found in results.items()
    }
    return PlotData(
        models=models,
        target_loss=None if plan is None else plan.target.loss,
        max_steps=0 if plan is None else plan.profile.max_steps,
    )


def _series(
    logits: BySplit | None,
    labels: BySplit,
    draws: Draws,
    runs: RelearningRuns | None,
    plan: RelearningPlan | None,
    results: Sequence[MetricResult],
) -> ModelSeries:
    series = ModelSeries(
        auc=estimate(results, PHI_AUC, None),
        accuracy={split: estimate(results, "accuracy", split) for split in SPLITS},
    )
    if logits is not None:
        forget = logits["forget"][draws.attack.forget], labels["forget"][draws.attack.forget]
        unseen = logits["audit"][draws.attack.audit], labels["audit"][draws.attack.audit]
        series = replace(
            series,
            phi_forget=_array(phi(*forget)),
            phi_unseen=_array(phi(*unseen)),
            loss_forget=_array(loss(*forget)),
            loss_unseen=_array(loss(*unseen)),
        )
    if runs is not None and plan is not None:
        series = replace(
            series,
            relearned_forget=relearned(runs.forget, plan.target, results, "forget"),
            relearned_unseen=relearned(runs.unseen, plan.target, results, "unseen"),
        )
    return series


def relearned(curves: Sequence[Curve], target: Target, results: Sequence[MetricResult], split: str) -> Relearned:
    """Return one side's curves and delays, and the delay that the report states."""
    stated = _find(results, DELAY, split)
    return Relearned(
        losses=tuple(curve.mean_losses for curve in curves),
        delays=tuple(curve.delay(target) for curve in curves),
        reported=None if stated is None or stated.censored else stated.value,
    )


def _find(results: Sequence[MetricResult], name: str, split: str | None) -> MetricResult | None:
    return next((result for result in results if (result.name, result.split) == (name, split)), None)


def estimate(results: Sequence[MetricResult], name: str, split: str | None) -> Estimate:
    """Return a figure of the results with its interval, empty where there is none or it is not finite."""
    found = _find(results, name, split)
    if found is None or found.value is None or not math.isfinite(found.value):
        return Estimate(value=None)
    return Estimate(value=found.value, ci95=found.ci95)


def _array(scores: Tensor) -> Floats:
    values: Floats = scores.cpu().numpy()
    return values
