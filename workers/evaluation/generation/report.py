"""Measure parent and unlearned generation model once each and lay out the report. Passes no judgement.

The report has the form of workers.evaluation.report, so that the gate, the certificate and the API read both alike.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from workers.evaluation.earlier import EarlierSet, audit_again
from workers.evaluation.generation.inception import NOT_NAMED, Absent, Extractor
from workers.evaluation.generation.losses import LOSS_AUC, Losses, attack_on_loss, membership, membership_scores
from workers.evaluation.generation.plot_data import gather
from workers.evaluation.generation.profile import DEFAULT_PROFILE, GenerationProfile
from workers.evaluation.generation.relearning import curves_part
from workers.evaluation.generation.stage import Measured, Stage, compared, measure, results_of, stage_for
from workers.evaluation.measure import Draws
from workers.evaluation.plots.data import PlotData
from workers.evaluation.relearning_curve import RUN_ON
from workers.evaluation.report import PARENT_RUN_ON, PHI_AUC, EvaluationSplits
from workers.evaluation.report_parts import Clock, control_counts, limits, planted_leak, small_set_ranks
from workers.evaluation.result import MetricResult
from workers.training import Progress, no_progress

GENERATION_LIMITS = (
    "What drawn images show is what one small classifier sees in them; how well it does is in `classifier`.",
    "The Fréchet distance is taken in that classifier's features: it is not FID, and compares with no published one.",
)
FID_LIMIT = (
    "FID is of few images, which makes it larger than of many, and of small ones that were made larger for Inception: "
    "it compares within this report, and with no published figure."
)


def evaluate_generation(
    *,
    parent: nn.Module,
    unlearned: nn.Module,
    splits: EvaluationSplits,
    num_classes: int,
    seed: int,
    groups: Mapping[str, Tensor] | None = None,
    progress: Progress = no_progress,
    plot: Callable[[PlotData], None] | None = None,
    earlier: Sequence[EarlierSet] = (),
    retrained: nn.Module | None = None,
    profile: GenerationProfile = DEFAULT_PROFILE,
    extractor: Extractor | Absent = NOT_NAMED,
) -> dict[str, Any]:
    """Return the JSON-safe report of `unlearned`, with the same measurements of `parent` beside it.

    As workers.evaluation.report.evaluate; no attack by reference models is made on a generation model. The splits
    need `recognition`, on which the classifier is trained that looks at the images drawn. `extractor` is what FID
    is taken with, or says why there is none.
    """
    clock = Clock()
    models = {"parent": parent, "unlearned": unlearned, **({} if retrained is None else {"retrained": retrained})}
    stage = stage_for(
        parent,
        splits,
        num_classes=num_classes,
        seed=seed,
        groups=groups or {},
        profile=profile,
        extractor=extractor,
        progress=progress,
        clock=clock,
    )
    measured = {
        # of the parent the gate reads the upper edge alone, which short runs tell as well
        who: measure(
            model,
            stage,
            who=who,
            run_on=PARENT_RUN_ON if who == "parent" else RUN_ON,
            progress=progress,
            clock=clock,
        )
        for who, model in models.items()
    }
    results = {
        who: results_of(measured[who], stage, before=measured["parent"], model=model, parent=parent)
        for who, model in models.items()
    }
    if retrained is not None:
        results["unlearned"] += compared(measured["unlearned"], measured["retrained"], stage)
    if plot is not None:
        with clock.timed("plots"):
            plot(gather(measured, stage, results))
    return _report(
        results, measured, stage, again=[_again(unlearned, each, measured, stage) for each in earlier], clock=clock
    )


def _report(
    results: Mapping[str, Sequence[MetricResult]],
    measured: Mapping[str, Measured],
    stage: Stage,
    *,
    again: list[dict[str, Any]],
    clock: Clock,
) -> dict[str, Any]:
    ours, draws = measured["unlearned"].losses, stage.draws
    shown = {who: [result.to_dict() for result in found] for who, found in results.items()}
    runs = {who: each.runs for who, each in measured.items() if each.runs is not None}
    relearned = 0 if stage.plans is None else len(stage.plans["sgd"].forget)
    return {
        "metrics": shown["unlearned"],
        "parent_metrics": shown["parent"],
        "retrained_metrics": shown.get("retrained"),
        "ranks": small_set_ranks(membership_scores(ours, draws.attack), draws),
        "per_request": _per_request(ours, draws),
        "curves": curves_part(runs, stage.plans),
        "references": None,
        "earlier_forget_sets": again,
        "planted_leak": planted_leak(results["parent"], attack=LOSS_AUC),
        "controls": control_counts(stage.labels, draws, relearned=relearned),
        "classifier": None if stage.studio is None else stage.studio.classifier,
        "sampling": None if stage.studio is None else stage.studio.sampling(),
        "does_not_prove": [
            *limits(results["unlearned"], beside=(LOSS_AUC,)),
            *GENERATION_LIMITS,
            *([FID_LIMIT] if stage.studio is not None and not isinstance(stage.studio.fid, Absent) else []),
        ],
        "durations": {**clock.seconds, "total": time.perf_counter() - clock.started},
    }


def _again(unlearned: nn.Module, earlier: EarlierSet, measured: Mapping[str, Measured], stage: Stage) -> dict[str, Any]:
    return audit_again(
        earlier,
        audit_labels=stage.labels["audit"],
        generator=stage.generator,
        attack=attack_on_loss(unlearned, task=stage.task, audit_losses=measured["unlearned"].losses["audit"]),
    )


def _per_request(losses: Losses, draws: Draws) -> list[dict[str, Any]]:
    rows = []
    for name, pairs in draws.requests.items():
        attack = membership(losses, pairs).to_dict()
        shown = {"request": name, "n": attack["n"], PHI_AUC: None}
        rows.append({**shown, LOSS_AUC: attack["value"], "ci95": attack.get("ci95")})
    return rows
