"""`auto` on tensors: the service's ladder, each model judged by the default gate, until one passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from service.catalogue.bounds import DEFAULT_BOUNDS
from service.catalogue.ladders import LADDERS, scenario_of
from service.catalogue.methods import METHODS
from workers.evaluation.gate import Bar
from workers.evaluation.report import EvaluationSplits
from workers.ladder import Situation, after, next_rung
from workers.pipeline import ModelSpec, erase
from workers.unlearning.interface import UnlearningError, UnlearningSplits


@dataclass(frozen=True, kw_only=True)
class Climb:
    """The model published, its method's own seconds, all seconds with the evaluations, and what was tried."""

    model: nn.Module
    method_seconds: float
    all_seconds: float
    tried: Sequence[dict[str, Any]]


def climb(
    spec: ModelSpec,
    parent: nn.Module,
    splits: UnlearningSplits,
    sets: EvaluationSplits,
    *,
    seed: int,
    forget_count: int,
    retraining_seconds: float,
    clock: Callable[[], float],
) -> Climb:
    """Try the methods of the privacy ladder in turn; raise UnlearningError where the last is not published."""
    labels = set(splits.forget.labels.tolist()), set(splits.retain.labels.tolist())
    ladder = LADDERS["privacy"][scenario_of(forgotten=labels[0], kept=labels[1], has_retain=True)]
    started, tried = clock(), list[dict[str, Any]]()
    while True:
        situation = Situation(
            requested="auto",
            ladder=ladder.methods,
            tried=tuple(each["method"] for each in tried),
            forget_count=forget_count,
            small_sets="disclose",
            retraining_seconds=retraining_seconds,
        )
        method = next_rung(situation).method
        if method is None:
            raise UnlearningError(f"nothing of the ladder passed: {tried}")
        before = clock()
        try:
            model, report = erase(
                spec,
                parent,
                splits,
                sets,
                method=method,
                config=METHODS[method].config.model_validate(ladder.options.get(method, {})),
                seed=seed,
                bar=Bar(bounds=DEFAULT_BOUNDS["privacy"], max_accuracy_drop=0.02, disclose_small=True),
            )
        except UnlearningError as error:
            tried.append({"method": method, "verdict": str(error), "seconds": clock() - before})
            continue
        share = report["seconds"]["unlearning"] / (report["seconds"]["unlearning"] + report["seconds"]["evaluation"])
        spent = clock() - before
        tried.append({"method": method, "verdict": report["gate"]["verdict"], "seconds": spent})
        step = after(replace(situation, tried=(*situation.tried, method)), report["gate"])
        if step.action == "hold":
            raise UnlearningError(f"held for a person: {step.why}")
        if step.action == "publish":
            # the report counts by the wall: its share is taken of the clock's
            return Climb(model=model, method_seconds=share * spent, all_seconds=clock() - started, tried=tried)
