"""Measure parent and unlearned model on the same sets and lay out the report."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue.metrics import METRICS as CATALOGUE
from workers.classification import Classification
from workers.evaluation.mia_threshold import auc_result, mia_threshold, score_arrays
from workers.evaluation.relearning import RelearningPlan, RelearningProfile, plan_relearning, relearning
from workers.evaluation.result import MetricResult
from workers.evaluation.unseen_controls import ControlPairs, draw_controls
from workers.evaluation.utility import accuracy_and_loss, utility, weight_distance
from workers.samples import LabelledSet
from workers.training import Progress, no_progress

PHASE = "evaluate"


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSplits:
    """The sets a model is judged on. `audit` and `test` were seen by no training and no selection.

    `retain` and `forget` are what the method had; `test` is the whole test split, `audit` its audit half.
    """

    retain: LabelledSet
    forget: LabelledSet
    audit: LabelledSet
    test: LabelledSet


def evaluate(
    *,
    parent: nn.Module,
    unlearned: nn.Module,
    splits: EvaluationSplits,
    task: Classification,
    seed: int,
    groups: Mapping[str, Tensor] | None = None,
    profile: RelearningProfile | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return metrics of the unlearned model, the same of the parent, and per request; JSON-safe.

    `groups` maps a request's name to its positions in the forget set. Every random choice comes from `seed`.
    The models are not changed.
    """
    clock = _Clock(progress)
    logits = {
        who: {
            split: task.predict(model, getattr(splits, split))
            for split in ("retain", "forget", "audit", "test")
        }
        for who, model in (("parent", parent), ("unlearned", unlearned))
    }
    clock.lap("forward")
    generator = torch.Generator().manual_seed(seed)
    pairs = draw_controls(splits.forget.labels, splits.audit.labels, generator=generator)
    retain_pairs = draw_controls(splits.retain.labels, splits.audit.labels, generator=generator)
    results = {who: _from_logits(of, splits, pairs, retain_pairs) for who, of in logits.items()}
    clock.lap("membership")
    results["unlearned"] += utility(
        logits["parent"]["test"], logits["unlearned"]["test"], splits.test.labels, splits.retain.labels
    )
    results["unlearned"].append(weight_distance(parent, unlearned))
    per_request = _per_request(groups or {}, logits["unlearned"], splits, generator)
    clock.lap("utility")
    plan = plan_relearning(
        parent,
        unlearned,
        splits.forget,
        splits.audit,
        task=task,
        seed=seed,
        profile=profile or RelearningProfile(),
    )
    lost = sorted(set(splits.forget.labels.tolist()) - set(splits.retain.labels.tolist()))
    for who, model in (("unlearned", unlearned), ("parent", parent)):
        results[who] += _relearning(model, plan, task, lost, seed)
        clock.lap(f"relearning_{who}")
    named = {result.name for result in results["unlearned"]}
    return {
        "metrics": [result.to_dict() for result in results["unlearned"]],
        "parent_metrics": [result.to_dict() for result in results["parent"]],
        "per_request": per_request,
        "does_not_prove": sorted({CATALOGUE[name].does_not_prove for name in named}),
        "durations": clock.durations,
    }


def _from_logits(
    logits: Mapping[str, Tensor], splits: EvaluationSplits, pairs: ControlPairs, retain_pairs: ControlPairs
) -> list[MetricResult]:
    """Return every metric that one model's logits give."""
    results = []
    for split in ("retain", "forget", "test"):
        results += accuracy_and_loss(split, logits[split], getattr(splits, split).labels)
    controls = pairs.audit.to(splits.audit.device)
    control_logits, control_labels = logits["audit"][controls], splits.audit.labels[controls]
    results += accuracy_and_loss("unseen", control_logits, control_labels)
    chosen = pairs.forget.to(splits.forget.device)
    started = time.perf_counter()
    attacks = mia_threshold(
        logits["forget"][chosen], splits.forget.labels[chosen], control_logits, control_labels
    )
    attacks.append(
        _phi_auc(
            "mia_threshold.phi.retain_auc",
            logits["retain"],
            splits.retain.labels,
            logits["audit"],
            splits,
            retain_pairs,
        )
    )
    return results + _timed(attacks, started)


def _phi_auc(
    name: str,
    logits: Tensor,
    labels: Tensor,
    audit_logits: Tensor,
    splits: EvaluationSplits,
    pairs: ControlPairs,
) -> MetricResult:
    ours, theirs = pairs.forget.to(labels.device), pairs.audit.to(labels.device)
    return auc_result(
        name,
        score_arrays("phi", logits[ours], labels[ours]),
        score_arrays("phi", audit_logits[theirs], splits.audit.labels[theirs]),
    )


def _per_request(
    groups: Mapping[str, Tensor],
    logits: Mapping[str, Tensor],
    splits: EvaluationSplits,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """Return membership of each request's own samples: a pooled figure can hide one of them."""
    rows = []
    for request, positions in groups.items():
        where = positions.to(splits.forget.device)
        labels = splits.forget.labels[where]
        pairs = draw_controls(labels, splits.audit.labels, generator=generator)
        name = "mia_threshold.phi.auc"
        result = _phi_auc(name, logits["forget"][where], labels, logits["audit"], splits, pairs)
        rows.append({"request": request, "n": len(where), name: result.to_dict()})
    return rows


def _relearning(
    model: nn.Module, plan: RelearningPlan | None, task: Classification, lost: list[int], seed: int
) -> list[MetricResult]:
    if plan is None:
        return [
            MetricResult(name="relearning_delay", split="forget", value=None, n=0, verdict="not_applicable"),
            MetricResult(name="relearning_ratio", value=None, n=0, verdict="not_applicable"),
        ]
    started = time.perf_counter()
    return _timed(relearning(model, plan, task=task, whole_classes=lost, seed=seed), started)


def _timed(results: list[MetricResult], started: float) -> list[MetricResult]:
    seconds = time.perf_counter() - started
    return [dataclasses.replace(result, seconds=seconds) for result in results]


class _Clock:
    """Measure the parts of an evaluation and report them as progress."""

    PARTS = 5

    def __init__(self, progress: Progress) -> None:
        self.durations: dict[str, float] = {}
        self._progress, self._last = progress, time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.durations[part] = now - self._last
        self._last = now
        self._progress(PHASE, len(self.durations), self.PARTS)
