"""What benchmarks that hold methods against a retrained model share: the yardstick, the attempts, the file of rows."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.auto_ladder import climb
from service.catalogue.methods import AUTO, MethodConfig
from service.catalogue.methods import METHODS as CATALOGUE
from workers.classification import Classification
from workers.evaluation.against_retrained import against_retrained
from workers.evaluation.measure import Draws, classes_gone, draw_pairs, measure_logits, phi_scores, plan_for_pairs
from workers.evaluation.relearning import RelearningPlan, RelearningRuns, relearning, run_relearning
from workers.evaluation.relearning_thorough import anamnesis
from workers.evaluation.report import EvaluationSplits
from workers.evaluation.result import MetricResult
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningSplits

Row = dict[str, Any]
TASK = Classification()
YARDSTICKS = ("original", "retrain")
"""The rows that are no attempt of a method: what is unlearned, and what is aimed at."""


PLAIN_METHODS = [name for name, spec in CATALOGUE.items() if name != "retrain" and not spec.needs_sharded_recipe]
"""All methods that work on one network: a model for SISA is another model, an ensemble trained for it."""


def clock() -> float:
    """Return seconds: of the processor, which other work does not stretch, or of the wall where there is a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def read_rows(path: Path) -> list[Row]:
    """Return the rows measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_missing_rows(
    path: Path,
    cells: Iterable[tuple[str, int]],
    methods: Sequence[str],
    measure: Callable[[str, int, Sequence[str]], Iterator[Row]],
) -> None:
    """Measure the methods that the file lacks for each cell, a scenario and a seed; add each row as it comes."""
    done = {(row["method"], row["scenario"], row["seed"]) for row in read_rows(path)}
    for scenario, seed in cells:
        wanted = [name for name in (*YARDSTICKS, *methods) if (name, scenario, seed) not in done]
        for row in measure(scenario, seed, wanted) if wanted else ():
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["method"], scenario, seed, row.get("failure") or f"{row['seconds']:.1f} s", flush=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Yardstick:
    """What all methods of one scenario and seed are held against, measured once."""

    spec: ModelSpec
    original: nn.Module
    retrained: nn.Module
    splits: UnlearningSplits
    sets: EvaluationSplits
    draws: Draws
    plan: RelearningPlan
    runs: RelearningRuns
    logits: Mapping[str, Mapping[str, Tensor]]
    retraining: float


def yardstick_for(
    spec: ModelSpec,
    splits: UnlearningSplits,
    *,
    audit: LabelledSet,
    test: LabelledSet,
    seed: int,
    device: torch.device | str = "cpu",
) -> Yardstick:
    """Train on all and on the retain set, and fix what every model is measured by; relearning has one seed a side."""
    original = train_original(spec, splits.train, device=device).model
    started = clock()
    retrained = train_original(spec, splits.retain, device=device).model
    retraining = clock() - started
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=audit, test=test)
    labels, generator = sets.labels(), generator_for(seed)
    draws = draw_pairs(labels, {}, generator=generator)
    plan = plan_for_pairs(
        original, sets.forget, sets.audit, draws.pairs, task=TASK, generator=generator, gone=classes_gone(labels)
    )
    if plan is None:
        raise SystemExit("no control for the forget set: use more images")
    plan = replace(plan, unseen=plan.unseen[:1])
    return Yardstick(
        spec=spec,
        original=original,
        retrained=retrained,
        splits=splits,
        sets=sets,
        draws=draws,
        plan=plan,
        runs=run_relearning(retrained, plan, task=TASK),
        logits={"original": _logits(original, sets), "retrained": _logits(retrained, sets)},
        retraining=retraining,
    )


def config_named(name: str) -> tuple[str, MethodConfig]:
    """Return method and options of a name such as scrub/preset=confusion,epochs=5; without options the defaults."""
    method, _, options = name.partition("/")
    given = dict(option.split("=", 1) for option in options.split(",")) if options else {}
    return method, CATALOGUE[method].config.model_validate(given)


def rows_for(names: Sequence[str], yardstick: Yardstick, head: Row, *, shown: Sequence[str]) -> Iterator[Row]:
    """Yield a row per name, of YARDSTICKS, auto, or as config_named takes it: `head`, what came of it, the `shown`."""
    for name in names:
        row = {**head, "method": name, "retraining_s": yardstick.retraining}
        if name in YARDSTICKS:
            model = yardstick.original if name == "original" else yardstick.retrained
            row["seconds"] = 0.0 if name == "original" else yardstick.retraining
        else:
            try:
                model, told = (_climbed if name == AUTO else _unlearned)(name, yardstick, seed=head["seed"])
            except UnlearningError as error:
                yield {**row, "failure": str(error)}
                continue
            row |= told
        yield {**row, **_measured(model, yardstick, shown, seed=head["seed"])}


def _climbed(_: str, yardstick: Yardstick, *, seed: int) -> tuple[nn.Module, Row]:
    """Climb the ladder; tell what it took, and how much of that was the published method's own."""
    found = climb(
        yardstick.spec,
        yardstick.original,
        yardstick.splits,
        yardstick.sets,
        seed=seed,
        forget_count=len(yardstick.draws.pairs),
        retraining_seconds=yardstick.retraining,
        clock=clock,
    )
    return found.model, {"seconds": found.method_seconds, "all_seconds": found.all_seconds, "tried": found.tried}


def _unlearned(name: str, yardstick: Yardstick, *, seed: int) -> tuple[nn.Module, Row]:
    method, config = config_named(name)
    around = Surroundings(
        task=TASK,
        recipe=yardstick.spec.recipe,
        build_model=lambda fresh: build_model(yardstick.spec, fresh),
        generator=generator_for(seed),
    )
    started = clock()
    with deterministic(seed):
        result = METHODS[method](yardstick.original, yardstick.splits, config, around=around)
    seconds = clock() - started
    return result.model, {"seconds": seconds, "guard": result.verdict, "selection": result.selection}


def _logits(model: nn.Module, sets: EvaluationSplits) -> dict[str, Tensor]:
    return {name: TASK.predict(model, getattr(sets, name)).cpu() for name in ("retain", "forget", "audit", "test")}


def _measured(model: nn.Module, yardstick: Yardstick, shown: Sequence[str], *, seed: int) -> Row:
    logits, started = _logits(model, yardstick.sets), clock()
    runs = run_relearning(model, yardstick.plan, task=TASK)
    relearned = clock() - started
    found = {
        result.name if result.split is None else f"{result.name}.{result.split}": result
        for result in _results(logits, runs, yardstick, seed=seed)
    }
    figures = {name: {"value": found[name].value, "ci95": found[name].ci95} for name in shown if name in found}
    return {"relearning_s": relearned, "figures": figures}


def _results(
    logits: Mapping[str, Tensor], runs: RelearningRuns, yardstick: Yardstick, *, seed: int
) -> list[MetricResult]:
    labels, draws, known = yardstick.sets.labels(), yardstick.draws, yardstick.logits
    ours, theirs = (
        phi_scores(each, labels, members="forget", pairs=draws.attack) for each in (logits, known["retrained"])
    )
    return [
        *measure_logits(logits, known["original"], labels, draws, seed=seed),
        *against_retrained(logits, known["retrained"], labels, scores=ours, retrained_scores=theirs),
        *relearning(runs, yardstick.plan, classes_gone=classes_gone(labels).tolist()),
        anamnesis(runs, yardstick.plan, retrained=yardstick.runs),
    ]
