"""Measure parent and unlearned model once each and lay out the report. Passes no judgement."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.classification import Classification, device_of
from workers.evaluation.against_retrained import against_retrained
from workers.evaluation.earlier import EarlierSet, attack_on_phi, audit_again
from workers.evaluation.measure import (
    RETAINED,
    BySplit,
    Draws,
    classes_gone,
    draw_pairs,
    measure_logits,
    measure_runs,
    phi_auc,
    phi_scores,
    plan_for_pairs,
    timed,
)
from workers.evaluation.plot_data import gather
from workers.evaluation.plots.data import PlotData
from workers.evaluation.reference_attacks import PlacedReferences, reference_attacks
from workers.evaluation.relearning import (
    RelearningPlan,
    RelearningRuns,
    compact,
    run_relearning,
)
from workers.evaluation.relearning_curve import RUN_ON
from workers.evaluation.relearning_thorough import anamnesis
from workers.evaluation.report_parts import Clock, control_counts, limits, planted_leak, small_set_ranks
from workers.evaluation.result import MetricResult
from workers.evaluation.utility import weight_distance
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import Progress, no_progress

PARENT_RUN_ON = 0.3
SPLITS = ("retain", "forget", "audit", "test")
PHI_AUC = "mia_threshold.phi.auc"


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSplits:
    """The sets a model is judged on. `audit` and `test` were seen by no training and no selection.

    `retain` and `forget` are what the method had; where the retain set is gone it is empty, and `retained_labels`
    says which labels it had; `test` is the whole test split, `audit` its audit half. `recognition` is of a generation
    model alone: the selection and the population pool, of which the classifier learns that looks at drawn images.
    """

    retain: LabelledSet
    forget: LabelledSet
    audit: LabelledSet
    test: LabelledSet
    retained_labels: Tensor | None = None
    recognition: LabelledSet | None = None

    def to(self, device: torch.device | str) -> "EvaluationSplits":
        """Return the splits on `device`."""
        placed = {name: getattr(self, name).to(device) for name in SPLITS}
        return replace(self, **placed, recognition=None if self.recognition is None else self.recognition.to(device))

    def labels(self) -> dict[str, Tensor]:
        """Return the labels by split, on the CPU, and those of the retain set once more, also where it is empty."""
        found = {name: getattr(self, name).labels.cpu() for name in SPLITS}
        kept = found["retain"] if self.retained_labels is None else self.retained_labels.cpu()
        return {**found, RETAINED: kept}


def evaluate(
    *,
    parent: nn.Module,
    unlearned: nn.Module,
    splits: EvaluationSplits,
    task: Classification,
    seed: int,
    groups: Mapping[str, Tensor] | None = None,
    progress: Progress = no_progress,
    plot: Callable[[PlotData], None] | None = None,
    references: PlacedReferences | None = None,
    earlier: Sequence[EarlierSet] = (),
    retrained: nn.Module | None = None,
) -> dict[str, Any]:
    """Return the JSON-safe report of `unlearned`, with the same measurements of `parent` beside it.

    All models are on one device and are not changed. `groups` maps a request's name to positions in the
    forget set. Equal seeds give equal reports, times apart. `plot` is given what the plots are drawn from, which
    the report does not hold. With `references` the report also has the attacks that need them;
    the `earlier` forget sets are attacked again. `retrained` was trained on the retain set alone: it is measured
    like the others, and the unlearned model is compared with it.
    """
    clock = Clock()
    splits = splits.to(device_of(parent))
    labels = splits.labels()
    generator = generator_for(seed)
    draws = draw_pairs(labels, groups or {}, generator=generator)
    models = {"parent": parent, "unlearned": unlearned}
    if retrained is not None:
        models["retrained"] = retrained
    logits: dict[str, dict[str, Tensor]] = {}
    for done, (who, model) in enumerate(models.items()):
        progress("predict", done, len(models))
        with clock.timed(f"predict_{who}"):
            logits[who] = {name: task.predict(model, getattr(splits, name)).cpu() for name in SPLITS}
    progress("calibrate", 0, 1)
    with clock.timed("relearning_plan"):
        plan = plan_for_pairs(
            parent,
            splits.forget,
            splits.audit,
            draws.pairs,
            task=task,
            generator=generator,
            gone=classes_gone(labels),
        )
    results: dict[str, list[MetricResult]] = {}
    runs: dict[str, RelearningRuns] = {}
    for who, model in models.items():
        with clock.timed(f"relearning_{who}"):
            if plan is not None:
                # of the parent the gate reads the upper edge alone, which short runs tell as well
                run_on = PARENT_RUN_ON if who == "parent" else RUN_ON
                runs[who] = run_relearning(model, plan, task=task, progress=progress, run_on=run_on)
            relearned = measure_runs(runs.get(who), plan, labels)
        results[who] = [
            *measure_logits(logits[who], logits["parent"], labels, draws, seed=seed),
            weight_distance(parent, model),
            *(reference_attacks(references, logits[who], labels, draws) if references else ()),
            *(replace(result, seconds=clock.seconds[f"relearning_{who}"]) for result in relearned),
        ]
    if retrained is not None:
        results["unlearned"] += timed(_compared, logits, labels, draws)
        if plan is not None:
            results["unlearned"].append(anamnesis(runs["unlearned"], plan, retrained=runs["retrained"]))
    if plot is not None:
        with clock.timed("plots"):
            plot(gather(logits, labels, draws, runs=runs, plan=plan, results=results))
    audited = {"audit_logits": logits["unlearned"]["audit"], "audit_labels": labels["audit"]}
    on_phi = attack_on_phi(unlearned, task=task, **audited)
    return {
        "metrics": [result.to_dict() for result in results["unlearned"]],
        "parent_metrics": [result.to_dict() for result in results["parent"]],
        "retrained_metrics": [each.to_dict() for each in results["retrained"]] if retrained is not None else None,
        "ranks": small_set_ranks(phi_scores(logits["unlearned"], labels, members="forget", pairs=draws.attack), draws),
        "per_request": _per_request(logits["unlearned"], labels, draws),
        "curves": _curves(runs, plan),
        "references": None if references is None else references.logits.models,
        "earlier_forget_sets": [
            audit_again(each, audit_labels=labels["audit"], generator=generator, attack=on_phi) for each in earlier
        ],
        "planted_leak": planted_leak(results["parent"], attack=PHI_AUC),
        "controls": control_counts(labels, draws, relearned=0 if plan is None else len(plan.forget)),
        "does_not_prove": limits(results["unlearned"]),
        "durations": {**clock.seconds, "total": time.perf_counter() - clock.started},
    }


def _compared(logits: Mapping[str, BySplit], labels: BySplit, draws: Draws) -> list[MetricResult]:
    ours, theirs = (
        phi_scores(logits[who], labels, members="forget", pairs=draws.attack) for who in ("unlearned", "retrained")
    )
    return against_retrained(logits["unlearned"], logits["retrained"], labels, scores=ours, retrained_scores=theirs)


def _per_request(logits: BySplit, labels: BySplit, draws: Draws) -> list[dict[str, Any]]:
    rows = []
    for name, pairs in draws.requests.items():
        attack = phi_auc(PHI_AUC, logits, labels, members="forget", pairs=pairs).to_dict()
        rows.append({"request": name, "n": attack["n"], PHI_AUC: attack["value"], "ci95": attack.get("ci95")})
    return rows


def _curves(runs: Mapping[str, RelearningRuns], plan: RelearningPlan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    curves = {who: {"forget": compact(run.forget), "unseen": compact(run.unseen)} for who, run in runs.items()}
    return {
        "target_loss": plan.target.loss,
        "target_accuracy": plan.target.accuracy,
        "rate": plan.rate,
        "rate_calibrated": plan.calibrated,
        "max_steps": plan.profile.max_steps,
        **curves,
    }
