"""Measure parent and unlearned model once each and lay out the report. Passes no judgement."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue.metrics import METRICS as CATALOGUE
from workers.classification import Classification, device_of
from workers.evaluation.mia_threshold import auc_result, mia_threshold, score_arrays
from workers.evaluation.relearning import (
    DEFAULT_PROFILE,
    RelearningPlan,
    RelearningRuns,
    compact,
    no_relearning,
    plan_relearning,
    relearning,
    run_relearning,
)
from workers.evaluation.result import MetricResult
from workers.evaluation.unseen_controls import ControlPairs, draw_controls
from workers.evaluation.utility import accuracy_and_loss, utility, weight_distance
from workers.reproducibility import derived_seed, generator_for
from workers.samples import LabelledSet
from workers.training import Progress, no_progress

SPLITS = ("retain", "forget", "audit", "test")
PHI_AUC = "mia_threshold.phi.auc"
GENERAL_LIMITS = (
    "No measurement here proves erasure: each bounds what one attack or one observer finds.",
    "The unseen controls stand for the forgotten samples only as far as both come from one distribution.",
    "Copies of the model or of its outputs made before unlearning are not covered.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationSplits:
    """The sets a model is judged on. `audit` and `test` were seen by no training and no selection.

    `retain` and `forget` are what the method had; `test` is the whole test split, `audit` its audit half.
    """

    retain: LabelledSet
    forget: LabelledSet
    audit: LabelledSet
    test: LabelledSet

    def to(self, device: torch.device | str) -> "EvaluationSplits":
        """Return the splits on `device`."""
        return EvaluationSplits(**{name: getattr(self, name).to(device) for name in SPLITS})

    @property
    def labels(self) -> dict[str, Tensor]:
        """Return the labels of each split on the CPU."""
        return {name: getattr(self, name).labels.cpu() for name in SPLITS}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """The random draws, the same for both models: attack pairs, retain pairs and one pair set per request."""

    pairs: ControlPairs
    retain: ControlPairs
    groups: Mapping[str, ControlPairs]


def evaluate(
    *,
    parent: nn.Module,
    unlearned: nn.Module,
    splits: EvaluationSplits,
    task: Classification,
    seed: int,
    groups: Mapping[str, Tensor] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Return the JSON-safe report of `unlearned`, with the same measurements of `parent` beside it.

    Both models are on one device and are not changed. `groups` maps a request's name to positions in the
    forget set. Equal seeds give equal reports, durations apart.
    """
    clock = _Clock()
    splits = splits.to(device_of(parent))
    labels = splits.labels
    generator = generator_for(seed)
    drawn = _draw(labels, groups or {}, generator)
    models = {"parent": parent, "unlearned": unlearned}
    logits: dict[str, dict[str, Tensor]] = {}
    for done, (who, model) in enumerate(models.items()):
        progress("predict", done, 2)
        with clock.timed(f"predict_{who}"):
            logits[who] = {name: task.predict(model, getattr(splits, name)).cpu() for name in SPLITS}
    with clock.timed("relearning_plan"):
        plan = _plan(parent, splits, drawn.pairs, task=task, generator=generator)
    results: dict[str, list[MetricResult]] = {}
    runs: dict[str, RelearningRuns] = {}
    for done, (who, model) in enumerate(models.items()):
        progress("measure", done, 2)
        with clock.timed(f"metrics_{who}"):
            results[who] = _single_model(logits[who], logits["parent"], labels, drawn)
            results[who].append(weight_distance(parent, model))
        with clock.timed(f"relearning_{who}"):
            if plan is not None:
                runs[who] = run_relearning(model, plan, task=task)
            results[who] += _relearning_results(runs.get(who), plan, labels)
    progress("measure", 2, 2)
    return {
        "metrics": [result.to_dict() for result in results["unlearned"]],
        "parent_metrics": [result.to_dict() for result in results["parent"]],
        "per_request": _per_request(logits["unlearned"], labels, drawn),
        "curves": _curves(runs, plan),
        "planted_leak": _planted_leak(results["parent"]),
        "controls": _control_counts(labels, drawn.pairs),
        "does_not_prove": _limits(results["unlearned"]),
        "durations": clock.seconds(),
    }


class _Clock:
    """Collect wall times by name, in seconds."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        return {**self._seconds, "total": time.perf_counter() - self._started}


def _draw(labels: Mapping[str, Tensor], groups: Mapping[str, Tensor], generator: torch.Generator) -> _Drawn:
    pairs = draw_controls(labels["forget"], labels["audit"], generator=generator)
    retain = draw_controls(labels["retain"], labels["audit"], generator=generator)
    requests = {}
    for name, positions in groups.items() if len(groups) > 1 else ():
        own = draw_controls(labels["forget"][positions.cpu()], labels["audit"], generator=generator)
        requests[name] = ControlPairs(forget=positions.cpu()[own.forget], audit=own.audit)
    return _Drawn(pairs=pairs, retain=retain, groups=requests)


def _single_model(
    logits: Mapping[str, Tensor], parent: Mapping[str, Tensor], labels: Mapping[str, Tensor], drawn: _Drawn
) -> list[MetricResult]:
    """Return what one model's logits tell; the parent's are only compared with on the test set."""
    pairs = drawn.pairs
    unseen, unseen_labels = logits["audit"][pairs.audit], labels["audit"][pairs.audit]
    results = []
    for split in ("retain", "forget", "test"):
        results += accuracy_and_loss(split, logits[split], labels[split])
    results += accuracy_and_loss("unseen", unseen, unseen_labels)
    results += utility(parent["test"], logits["test"], labels["test"], labels["retain"])
    results += mia_threshold(logits["forget"][pairs.forget], labels["forget"][pairs.forget], unseen, unseen_labels)
    results.append(_phi_auc("mia_threshold.phi.retain_auc", logits, labels, members="retain", pairs=drawn.retain))
    return results


def _phi_auc(
    name: str, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], *, members: str, pairs: ControlPairs
) -> MetricResult:
    ours = score_arrays("phi", logits[members][pairs.forget], labels[members][pairs.forget])
    controls = score_arrays("phi", logits["audit"][pairs.audit], labels["audit"][pairs.audit])
    return auc_result(name, ours, controls)


def _plan(
    parent: nn.Module,
    splits: EvaluationSplits,
    pairs: ControlPairs,
    *,
    task: Classification,
    generator: torch.Generator,
) -> RelearningPlan | None:
    """Fix the relearning sets, one draw of controls per seed; None without any control."""
    profile = DEFAULT_PROFILE
    forget = splits.forget.take(pairs.forget[: profile.max_samples])
    if not len(forget):
        return None
    unseen = []
    for _ in range(profile.seeds):
        drawn = draw_controls(forget.labels, splits.audit.labels, generator=generator)
        # sorted, so that equal sets are equal sample by sample
        unseen.append(splits.audit.take(drawn.audit.sort().values))
    return plan_relearning(parent, forget, unseen, task=task, seed=derived_seed(generator), profile=profile)


def _relearning_results(
    runs: RelearningRuns | None, plan: RelearningPlan | None, labels: Mapping[str, Tensor]
) -> list[MetricResult]:
    if runs is None or plan is None:
        return no_relearning("the audit pool has no sample with a label of the forget set")
    gone = set(labels["forget"].tolist()) - set(labels["retain"].tolist())
    return relearning(runs, plan, classes_gone=sorted(gone))


def _per_request(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], drawn: _Drawn) -> list[dict[str, Any]]:
    rows = []
    for name, pairs in drawn.groups.items():
        result = _phi_auc(PHI_AUC, logits, labels, members="forget", pairs=pairs).to_dict()
        rows.append({"request": name, "n": result["n"], PHI_AUC: result["value"], "ci95": result.get("ci95")})
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


def _planted_leak(parent_results: Sequence[MetricResult]) -> dict[str, Any]:
    """Return the attack on the parent, which did see the forget set: has it any power here?"""
    [attack] = [result.to_dict() for result in parent_results if result.name == PHI_AUC]
    interval = attack.get("ci95")
    return {
        "name": PHI_AUC,
        "value": attack["value"],
        "ci95": interval,
        "n": attack["n"],
        "noticed": interval is not None and interval[0] > 0.5,
    }


def _control_counts(labels: Mapping[str, Tensor], pairs: ControlPairs) -> dict[str, Any]:
    wanted = torch.bincount(labels["forget"])
    matched = torch.bincount(labels["forget"][pairs.forget], minlength=len(wanted))
    short = {str(c): int(wanted[c] - matched[c]) for c in (wanted > matched).nonzero().flatten().tolist()}
    return {
        "forget": len(labels["forget"]),
        "audit": len(labels["audit"]),
        "matched": len(pairs),
        "relearning": min(len(pairs), DEFAULT_PROFILE.max_samples),
        "unmatched_per_class": short,
    }


def _limits(results: Sequence[MetricResult]) -> list[str]:
    names = dict.fromkeys(result.name for result in results if CATALOGUE[result.name].kind == "evidence")
    lines = [f"{CATALOGUE[name].title}: {CATALOGUE[name].does_not_prove}" for name in names]
    return [*GENERAL_LIMITS, *lines]
