"""Every method beside retraining on Fashion-MNIST: what it forgets, what it costs, whole class and random 10 %.

One JSON line per method, scenario and seed is added to --out as it is measured; a run that was broken off goes on
where it stopped. `python -m benchmarks.method_table` makes a table and a plot of the file. The relearning delays are
those of one seed a side, to keep the whole within the time; the parent's and the retrained model's are read once per
scenario and seed. Needs the IDX files of Fashion-MNIST under --root.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.auto_ladder import climb
from benchmarks.circumstances import circumstances
from benchmarks.gate import fashion_pools
from service.catalogue.methods import AUTO
from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.evaluation.against_retrained import against_retrained
from workers.evaluation.measure import Draws, classes_gone, draw_pairs, measure_logits, phi_scores, plan_for_pairs
from workers.evaluation.relearning import RelearningPlan, RelearningRuns, relearning, run_relearning
from workers.evaluation.relearning_thorough import anamnesis
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningSplits

SCENARIOS = ("random", "class")
FORGOTTEN_CLASS = 3
SHOWN = (
    "accuracy.retain",
    "accuracy.forget",
    "accuracy.unseen",
    "accuracy.test",
    "utility_drop.test",
    "mia_threshold.phi.auc",
    "forget_error.excess",
    "avg_gap",
    "tow",
    "js_divergence.forget",
    "relearning_delay.forget",
    "relearning_delay.unseen",
    "relearning_ratio",
    "anamnesis",
)
CORE = (
    AUTO,
    "neggrad_plus",
    "ieu",
    "noise_finetune",
    "scrub",
    "scrub_r",
    "salun",
    "ssd",
    "delete",
    "mu_mis",
    "finetune",
)
"""Those measured unless others are named. A model for SISA is another model: an ensemble, trained for it."""
TASK = Classification()


def main() -> int:
    """Measure what the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=CORE)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    done = {(row["method"], row["scenario"], row["seed"]) for row in read_rows(given.out)}
    for scenario in SCENARIOS:
        for seed in range(given.seeds):
            wanted = [name for name in ("original", "retrain", *given.methods) if (name, scenario, seed) not in done]
            for row in _rows(given, scenario, seed, wanted) if wanted else ():
                with given.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row["method"], scenario, seed, row.get("failure") or f"{row['seconds']:.1f} s", flush=True)
    print(json.dumps(circumstances("torch"), indent=2))
    return 0


def clock() -> float:
    """Return seconds: of the processor, which other work does not stretch, or of the wall where there is a GPU."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


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


def _rows(given: argparse.Namespace, scenario: str, seed: int, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    yardstick = _yardstick(given, scenario, seed)
    for method in wanted:
        row: dict[str, Any] = {"method": method, "scenario": scenario, "seed": seed}
        if method in ("original", "retrain"):
            model = {"original": yardstick.original, "retrain": yardstick.retrained}[method]
            row["seconds"] = 0.0 if method == "original" else yardstick.retraining
        else:
            try:
                model = _auto(row, yardstick, seed) if method == AUTO else _unlearned(row, method, yardstick, seed)
            except UnlearningError as error:
                yield {**row, "failure": str(error), "retraining_s": yardstick.retraining}
                continue
        yield {**row, "retraining_s": yardstick.retraining, **_measured(model, yardstick, seed)}


def _yardstick(given: argparse.Namespace, scenario: str, seed: int) -> Yardstick:
    pools = {name: samples.to(given.device) for name, samples in fashion_pools(given.root, given.train, seed).items()}
    spec = ModelSpec(
        architecture=given.architecture,
        options={"width": 16} if given.architecture == "small_cnn" else {},
        image_shape=(1, 28, 28),
        num_classes=10,
        recipe=Recipe(seed=seed, epochs=given.epochs),
    )
    original = train_original(spec, pools["train"], device=torch.device(given.device)).model
    splits = UnlearningSplits(
        train=pools["train"], forget_index=_chosen(pools["train"], scenario, seed), selection=pools["selection"]
    )
    started = clock()
    retrained = train_original(spec, splits.retain, device=torch.device(given.device)).model
    retraining = clock() - started
    sets = EvaluationSplits(retain=splits.retain, forget=splits.forget, audit=pools["audit"], test=pools["test"])
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


def _chosen(train: LabelledSet, scenario: str, seed: int) -> Tensor:
    if scenario == "class":
        return (train.labels == FORGOTTEN_CLASS).nonzero().squeeze(1)
    return torch.randperm(len(train), generator=generator_for(seed))[: len(train) // 10].to(train.device)


def _auto(row: dict[str, Any], yardstick: Yardstick, seed: int) -> nn.Module:
    """Climb the ladder; note what it took, and how much of that was the published method's own."""
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
    row |= {"seconds": found.method_seconds, "all_seconds": found.all_seconds, "tried": found.tried}
    return found.model


def _unlearned(row: dict[str, Any], method: str, yardstick: Yardstick, seed: int) -> nn.Module:
    around = Surroundings(
        task=TASK,
        recipe=yardstick.spec.recipe,
        build_model=lambda fresh: build_model(yardstick.spec, fresh),
        generator=generator_for(seed),
    )
    started = clock()
    with deterministic(seed):
        result = METHODS[method](yardstick.original, yardstick.splits, CATALOGUE[method].config(), around=around)
    row["seconds"] = clock() - started
    return result.model


def _logits(model: nn.Module, sets: EvaluationSplits) -> dict[str, Tensor]:
    return {name: TASK.predict(model, getattr(sets, name)).cpu() for name in ("retain", "forget", "audit", "test")}


def _measured(model: nn.Module, yardstick: Yardstick, seed: int) -> dict[str, Any]:
    labels, draws, plan, known = yardstick.sets.labels(), yardstick.draws, yardstick.plan, yardstick.logits
    logits, started = _logits(model, yardstick.sets), clock()
    runs = run_relearning(model, plan, task=TASK)
    relearned = clock() - started
    ours, theirs = (
        phi_scores(each, labels, members="forget", pairs=draws.attack) for each in (logits, known["retrained"])
    )
    gone = classes_gone(labels).tolist()
    results = [
        *measure_logits(logits, known["original"], labels, draws, seed=seed),
        *against_retrained(logits, known["retrained"], labels, scores=ours, retrained_scores=theirs),
        *relearning(runs, plan, classes_gone=gone),
        anamnesis(runs, plan, retrained=yardstick.runs),
    ]
    found = {result.name if result.split is None else f"{result.name}.{result.split}": result for result in results}
    figures = {name: {"value": found[name].value, "ci95": found[name].ci95} for name in SHOWN}
    return {"relearning_s": relearned, "figures": figures}


if __name__ == "__main__":
    sys.exit(main())
