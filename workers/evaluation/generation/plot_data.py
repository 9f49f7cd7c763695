"""Gather what the plots of a generation report are drawn from. Measures nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from workers.evaluation.generation.losses import LOSS_AUC, membership_scores
from workers.evaluation.generation.stage import Measured, Stage
from workers.evaluation.plot_data import estimate, relearned
from workers.evaluation.plots.data import ModelSeries, PlotData
from workers.evaluation.result import MetricResult


def gather(measured: Mapping[str, Measured], stage: Stage, results: Mapping[str, Sequence[MetricResult]]) -> PlotData:
    """Return the plots' data of every model: scores of the attack, curves under SGD, and the first images per class."""
    plan = None if stage.plans is None else stage.plans["sgd"]
    return PlotData(
        models={who: _series(each, stage, results[who]) for who, each in measured.items()},
        target_loss=None if plan is None else plan.target.loss,
        max_steps=0 if plan is None else plan.profile.max_steps,
        score="minus the loss",
        unit="mean squared error",
        relearned_by="SGD",
        use="see the images drawn",
        gone=() if stage.studio is None else tuple(stage.studio.sampling()["forget"]["classes"]),
    )


def _series(ours: Measured, stage: Stage, results: Sequence[MetricResult]) -> ModelSeries:
    members, controls = membership_scores(ours.losses, stage.draws.attack)
    series = ModelSeries(
        auc=estimate(results, LOSS_AUC, None),
        phi_forget=members,
        phi_unseen=controls,
        loss_forget=-members,
        loss_unseen=-controls,
        images={} if ours.drawn is None else {label: x.numpy() for label, x in ours.drawn.shown.items()},
    )
    if ours.runs is None or stage.plans is None:
        return series
    runs, plan = ours.runs["sgd"], stage.plans["sgd"]
    return replace(
        series,
        relearned_forget=relearned(runs.forget, plan.target, results, "forget"),
        relearned_unseen=relearned(runs.unseen, plan.target, results, "unseen") if runs.unseen else None,
    )
