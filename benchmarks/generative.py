"""Every method on a diffusion model: a class forgotten, or a random tenth, beside retraining.

On scikit-learn's digits (8x8), or with --root on Fashion-MNIST (28x28, for a GPU). One JSON line per method, scenario
and seed is added to --out as it is measured; models that were trained are kept beside it, so that a run that was broken
off goes on where it stopped; with other settings it does not go on. `python -m benchmarks.generative_table` makes
table, picture and the list of what is reached. A method may be named with options, as in `scrub/epochs=5`. Relearning
has one seed a side, and three times the cap of a report: a delay that hits it can be compared with no other.

Other work on the machine stretches even the processor's time, and not evenly over an hour. So an epoch of training is
timed just before and just after every method, and retraining is taken to cost as many of these as the recipe has.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from benchmarks.beside_retraining import YARDSTICKS, Row, clock, read_rows
from benchmarks.circumstances import circumstances
from benchmarks.forget_sets import SCENARIOS as CUTS
from benchmarks.generative_origin import Origin, another, origin_of, source_of
from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.methods import METHODS, Available, MethodConfig
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from workers import checkpoints
from workers.classification import placed
from workers.data import read
from workers.data.pools import cut
from workers.evaluation.generation.drawn import SamplingProfile
from workers.evaluation.generation.profile import GenerationProfile
from workers.evaluation.generation.stage import Measured, Stage, compared, measure, results_of, stage_for
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec, build_model, task_for, train_original, unlearn
from workers.reproducibility import deterministic, generator_for
from workers.samples import LabelledSet
from workers.training import train
from workers.unlearning.interface import UnlearningError, UnlearningSplits

SCENARIOS = {"class": "one class", "random": "random 10 %"}
PLAIN = [name for name, spec in METHODS.items() if Task.GENERATION in spec.tasks and name != "retrain"]
ARCHITECTURE = "ddpm_unet_small"
PROFILE = GenerationProfile(
    sampling=SamplingProfile(gone=100, retained=360, steps=15),
    relearning=RelearningProfile(
        seeds=1,
        max_samples=64,
        max_steps=240,
        batch_size=32,
        rates=(0.01, 0.03, 0.1),
        adam_rates=(0.0003, 0.001, 0.003),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one process is to measure, and where it leaves it."""

    out: Path
    root: Path | None
    seed: int
    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    device: str
    threads: int
    recipe: dict[str, Any]
    options: dict[str, Any]
    of: Origin


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """What all methods of one scenario and seed share: the two trained models, measured once."""

    spec: ModelSpec
    splits: UnlearningSplits
    stage: Stage
    models: dict[str, nn.Module]
    measured: dict[str, Measured]
    retraining: float


def main() -> int:
    """Measure what the file does not have yet, a process per seed, so many at once; 2 where the order is at fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--methods", nargs="+", default=PLAIN)
    parser.add_argument("--root", type=Path, help="Where the IDX files of Fashion-MNIST lie; without it, the digits.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at once.")
    parser.add_argument("--threads", type=int, default=1, help="Of each process.")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--width", type=int)
    given = parser.parse_args()
    recipe = {} if given.epochs is None else {"epochs": given.epochs}
    options = {} if given.width is None else {"width": given.width}
    if faults := _faults(given.methods):
        parser.error("\n".join(faults))
    default = default_origin()
    own = origin_of(
        architecture=ARCHITECTURE,
        profile=PROFILE,
        root=given.root,
        recipe=recipe,
        options=options,
        device=given.device,
    )
    if told := another(given.out, own, default=default):
        parser.error(told)
    plans = [
        Plan(
            out=given.out,
            root=given.root,
            seed=seed,
            scenarios=tuple(given.scenario),
            methods=tuple(given.methods),
            device=given.device,
            threads=given.threads,
            recipe=recipe,
            options=options,
            of=own,
        )
        for seed in given.seeds
    ]
    # spawned: a forked child cannot use a GPU
    with ProcessPoolExecutor(max_workers=given.jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(_measure_seed, plans))
    print(json.dumps(circumstances("torch", "diffusers", "scikit-learn"), indent=2))
    return 0


def default_origin() -> Origin:
    """Return what a run without any option is of."""
    return origin_of(architecture=ARCHITECTURE, profile=PROFILE, recipe={}, options={})


def _faults(names: Sequence[str]) -> list[str]:
    """Say of each name what is wrong with it, before hours of training for it."""
    return [f"{name}: {fault}" for name in names if (fault := _fault(name))]


def _fault(name: str) -> str | None:
    method = name.partition("/")[0]
    if method not in METHODS:
        return f"unknown; known: {', '.join(PLAIN)}"
    if lack := METHODS[method].lack(Available(task=Task.GENERATION)):
        return lack
    try:
        _config(name)
    except ValidationError as error:
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    except ValueError:
        return "options are named as in scrub/epochs=5,lr=0.001"
    return None


def _measure_seed(plan: Plan) -> None:
    torch.set_num_threads(plan.threads)
    for scenario in plan.scenarios:
        done = {(row["method"], row["scenario"], row["seed"]) for row in read_rows(plan.out)}
        names = dict.fromkeys((*YARDSTICKS, *plan.methods))
        wanted = [name for name in names if (name, scenario, plan.seed) not in done]
        for row in _rows(plan, scenario, wanted) if wanted else ():
            with plan.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["method"], scenario, plan.seed, row.get("failure") or f"{row['seconds']:.1f} s", flush=True)


def _rows(plan: Plan, scenario: str, wanted: Sequence[str]) -> Iterator[Row]:
    cell = _cell(plan, scenario)
    head = {"scenario": scenario, "seed": plan.seed, "forgotten": len(cell.splits.forget), "of": plan.of}
    for name in wanted:
        row: Row = {**head, "method": name}
        if name in YARDSTICKS:
            row |= {"retraining_s": cell.retraining, "seconds": 0.0 if name == "original" else cell.retraining}
            yield {**row, **_figures(plan, scenario, name, cell.models[name], cell, cell.measured[name])}
            continue
        before = _epoch(cell, plan.device)
        try:
            model, seconds, told = _unlearned(name, cell, seed=plan.seed)
        except UnlearningError as error:
            yield {**row, "failure": str(error)}
            continue
        epoch = (before + _epoch(cell, plan.device)) / 2
        row |= {"retraining_s": epoch * cell.spec.recipe.epochs, "seconds": seconds}
        ours = measure(model, cell.stage, who=name, run_on=0.0)
        yield {**row, **told, **_figures(plan, scenario, name, model, cell, ours)}


def _unlearned(name: str, cell: Cell, *, seed: int) -> tuple[nn.Module, float, Row]:
    method, config = _config(name)
    started = clock()
    with deterministic(seed):
        result = unlearn(cell.spec, cell.models["original"], cell.splits, config, method=method, seed=seed)
    return result.model, clock() - started, {"guard": result.verdict, "selection": result.selection}


def _config(name: str) -> tuple[str, MethodConfig]:
    method, _, options = name.partition("/")
    spec, given = METHODS[method], dict(option.split("=", 1) for option in options.split(",")) if options else {}
    return method, spec.config.model_validate(spec.options_on(Task.GENERATION, given))


def _cell(plan: Plan, scenario: str) -> Cell:
    pools = _pools(plan)
    made = CUTS[SCENARIOS[scenario]](pools, generator_for(plan.seed))
    images = pools["train"].images.shape
    recipe = Recipe(**{**ARCHITECTURES[ARCHITECTURE].recipe, **plan.recipe, "seed": plan.seed})
    spec = ModelSpec(
        architecture=ARCHITECTURE,
        options=plan.options,
        image_shape=(images[1], images[2], images[3]),
        num_classes=10,
        recipe=recipe,
    )
    splits = UnlearningSplits(train=pools["train"], forget_index=made.forget_index, selection=pools["selection"])
    sets = EvaluationSplits(
        retain=splits.retain,
        forget=splits.forget,
        audit=pools["audit"],
        test=pools["test"],
        recognition=pools["recognition"],
    )
    original, _ = _trained(plan, spec, splits.train, name=f"original-{plan.seed}")
    retrained, retraining = _trained(plan, spec, splits.retain, name=f"{scenario}-{plan.seed}")
    stage = stage_for(original, sets, num_classes=10, seed=plan.seed, groups={}, profile=PROFILE)
    models = {"original": original, "retrain": retrained}
    return Cell(
        spec=spec,
        splits=splits,
        stage=stage,
        models=models,
        measured={who: measure(model, stage, who=who, run_on=0.0) for who, model in models.items()},
        retraining=retraining,
    )


def _trained(plan: Plan, spec: ModelSpec, samples: LabelledSet, *, name: str) -> tuple[nn.Module, float]:
    """Return the model trained on the samples, or the one that was kept, and what that took, in seconds."""
    folder = plan.out.with_suffix(".models")
    folder.mkdir(parents=True, exist_ok=True)
    weights, told = folder / f"{name}.safetensors", folder / f"{name}.json"
    if told.exists():
        kept = json.loads(told.read_text())
        model = build_model(spec)
        model.load_state_dict(dict(checkpoints.load(weights, sha256=kept["sha256"])))
        return placed(model, plan.device).eval(), float(kept["seconds"])
    started = clock()
    done = train_original(spec, samples, device=plan.device).model
    seconds = clock() - started
    checkpoints.save(done, weights)
    told.write_text(json.dumps({"sha256": checkpoints.file_digest(weights), "seconds": seconds, "of": plan.of}))
    return done, seconds


def _epoch(cell: Cell, device: str) -> float:
    """Return what an epoch of retraining takes now, in seconds."""
    recipe = cell.spec.recipe.model_copy(update={"epochs": 1})
    model, task = placed(build_model(cell.spec), device), task_for(cell.spec, recipe.seed)
    started = clock()
    train(model, cell.splits.retain, recipe, task=task, generator=generator_for(recipe.seed))
    return clock() - started


def _pools(plan: Plan) -> dict[str, LabelledSet]:
    """Cut the data as the service does; `recognition` is what the classifier learns from."""
    arrays = read(source_of(plan.root))
    names = np.array(cut(arrays, plan.seed.to_bytes(4, "big"))[1])
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)

    def pool(*wanted: str) -> LabelledSet:
        index = torch.from_numpy(np.flatnonzero(np.isin(names, wanted)))
        return LabelledSet(images=images[index], labels=labels[index]).to(plan.device)

    single = {name: pool(name) for name in ("train", "selection", "audit")}
    return {**single, "test": pool("audit", "population"), "recognition": pool("selection", "population")}


def _figures(plan: Plan, scenario: str, name: str, model: nn.Module, cell: Cell, ours: Measured) -> Row:
    """Return a model's figures by metric and split, and leave a few of its images beside the rows."""
    original = cell.models["original"]
    results = results_of(ours, cell.stage, before=cell.measured["original"], model=model, parent=original)
    results += compared(ours, cell.measured["retrain"], cell.stage)
    found = {x.name if x.split is None else f"{x.name}.{x.split}": replace(x, extra=None) for x in results}
    if ours.drawn is not None and plan.seed == 0:
        folder = plan.out.with_suffix(".images")
        folder.mkdir(exist_ok=True)
        shown = np.stack([images[0].numpy() for images in ours.drawn.shown.values()])
        np.save(folder / f"{scenario}-{name.replace('/', '_')}.npy", shown)
    figures = {
        key: {"value": x.value, "ci95": x.ci95, "censored": bool(x.censored), "n": x.n, "verdict": x.verdict}
        for key, x in found.items()
    }
    classifier = None if cell.stage.studio is None else cell.stage.studio.classifier["accuracy"]
    return {"figures": figures, "classifier_accuracy": classifier}


if __name__ == "__main__":
    sys.exit(main())
