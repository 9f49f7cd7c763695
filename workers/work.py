"""Carries out one order about a model in the child: files and tensors in, files and a JSON result out. No SQL."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.bounds import Bound
from service.catalogue.methods import METHODS, MethodConfig
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from workers import checkpoints, pipeline, reference_files
from workers.checkpoints import BadCheckpoint
from workers.classification import placed
from workers.data import cache
from workers.evaluation.earlier import EarlierSet
from workers.evaluation.gate import Bar
from workers.evaluation.generation.inception import NOT_NAMED, Absent, Extractor, inception
from workers.evaluation.plots.data import PlotData
from workers.evaluation.reference_attacks import PlacedReferences
from workers.evaluation.report import EvaluationSplits
from workers.journal import FileJournal, Terms
from workers.line import Line
from workers.micro_batches import Split, surviving
from workers.phases import EVALUATE, REEXECUTE
from workers.pipeline import ModelSpec
from workers.preparing import Made, prepare
from workers.reference_training import PlacedSamples, spec_digest, train_references
from workers.reproducibility import code_digest, deterministic
from workers.samples import LabelledSet
from workers.training import Progress
from workers.training_state import NO_JOURNAL, Journal
from workers.unlearning.interface import UnlearningSplits

Order = Mapping[str, Any]
WEIGHTS_FILE, REFERENCES_FILE = "weights.safetensors", "references.safetensors"
REEXECUTED_FILE = "reexecuted.safetensors"


def execute(order: Order, progress: Progress, line: Line | None = None) -> dict[str, Any]:
    """Do what the order says, in smaller batches where the memory does not suffice.

    Raises DataError, BadCheckpoint, TrainingError, UnlearningError, OutOfMemoryError or Stopped.
    """
    split = Split(**order.get("split", {}))

    def watched(phase: str, done: int, total: int) -> None:
        split.measuring = split.measuring or phase == EVALUATE
        progress(phase, done, total)

    result = surviving(lambda: _done(order, watched, line or Line(), split), split)
    if (account := split.account()) is not None:
        for told in (result[key] for key in ("report", "info") if key in result):
            told["accumulation"] = account
    return result


def _done(order: Order, progress: Progress, line: Line, split: Split) -> dict[str, Any]:
    if order["kind"] in _TRAININGS:
        return _TRAININGS[order["kind"]](order, progress, _journal(order, line, split))
    return _KINDS[order["kind"]](order, progress)


def _journal(order: Order, line: Line, split: Split) -> Journal:
    """Return who keeps the order's training, gone on with where it was kept before and that can be read."""
    asked = order.get("checkpoints")
    if asked is None:
        return NO_JOURNAL
    bound_to = {
        "order": asked["order_sha256"],
        "device": _device(order).type,
        "torch": torch.__version__,
        "code": code_digest(),
    }
    terms = Terms(folder=Path(order["out"]), seconds=asked["seconds"], bound_to=bound_to, split=split)
    journal = FileJournal(terms, line)
    if before := asked.get("before"):
        try:
            journal.go_on(Path(before["path"]), sha256=before["sha256"])
        except BadCheckpoint as error:
            line.tell({"type": "checkpoint_refused", "detail": str(error)})
    return journal


def _spec(order: Order) -> ModelSpec:
    spec = order["spec"]
    # a model without a recipe of its own is unlearned by steps that suit its architecture
    recipe = Recipe.model_validate(spec["recipe"] or ARCHITECTURES[spec["architecture"]].recipe)
    return ModelSpec(
        architecture=spec["architecture"],
        options=spec["options"],
        image_shape=tuple(spec["image_shape"]),
        num_classes=spec["num_classes"],
        recipe=recipe,
    )


def _device(order: Order) -> torch.device:
    if order["device"] == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(order["device"])


def _samples(order: Order) -> Callable[[list[int]], LabelledSet]:
    dataset = order["dataset"]
    images, labels = cache.load(
        cache.Entry(folder=Path(dataset["cache"]), scratch=Path(order["out"])),
        dataset["source"],
        dataset["digest"],
        erased=dataset["erased"],
        roots=[Path(root) for root in dataset["roots"]],
        places=dataset.get("places"),
    )
    device = _device(order)

    def take(positions: list[int]) -> LabelledSet:
        index = np.asarray(positions, dtype=np.int64)
        return LabelledSet(
            images=torch.from_numpy(np.ascontiguousarray(images[index])),
            labels=torch.from_numpy(labels[index]),
        ).to(device)

    return take


def _stored(version: Mapping[str, Any], spec: ModelSpec, device: torch.device) -> nn.Module:
    tensors = checkpoints.load(Path(version["weights"]), sha256=version["sha256"])
    model = pipeline.build_model(spec)
    model.load_state_dict(dict(tensors))
    return placed(model, device).eval()


def _train(order: Order, progress: Progress, journal: Journal) -> dict[str, Any]:
    take = _samples(order)
    spec, positions = _spec(order), torch.tensor(order["train"], dtype=torch.int64)
    done = pipeline.train_original(
        spec, take(order["train"]), device=_device(order), positions=positions, progress=progress, journal=journal
    )
    checkpoints.save(done.model, Path(order["out"]) / WEIGHTS_FILE)
    return {"info": done.facts, "prepared": _keep_all(done.prepared, order, samples=len(positions))}


def _validate(order: Order, progress: Progress) -> dict[str, Any]:
    progress("validating", 0, 1)
    tensors = checkpoints.load(Path(order["weights"]), sha256=order["sha256"])
    return {"faults": pipeline.validate_parameters(_spec(order), tensors)}


def groups_of(order: Order) -> dict[str, torch.Tensor]:
    """Return, by request, where its samples are in the forget set: nowhere, where another job erased them meanwhile."""
    return {name: torch.tensor(index, dtype=torch.int64) for name, index in order["groups"].items()}


def _erase(order: Order, progress: Progress, journal: Journal) -> dict[str, Any]:
    take, spec, bar = _samples(order), _spec(order), order["bar"]
    drawn: dict[str, str] = {}
    left: dict[str, Mapping[str, Tensor]] = {}

    def plot(data: PlotData) -> None:
        # Imported here: the plotting library takes a second to load, which other orders need not spend.
        from workers.evaluation.plots import draw

        drawn.update(draw(data))

    splits = _unlearning_splits(order, take)
    gone = "retained_labels" in order
    model, report = pipeline.erase(
        spec,
        _stored(order, spec, _device(order)),
        splits,
        EvaluationSplits(
            retain=take([]) if gone else splits.retain,
            forget=splits.forget,
            audit=take(order["audit"]),
            test=take(order["test"]),
            retained_labels=splits.retained_labels if gone else None,
            recognition=take([*order["selection"], *order["population"]]) if spec.task == Task.GENERATION else None,
        ),
        method=order["method"],
        config=_config(order),
        seed=order["seed"],
        bar=Bar(
            bounds=tuple(Bound.model_validate(bound) for bound in bar["bounds"]),
            max_accuracy_drop=bar["max_accuracy_drop"],
            disclose_small=bar["disclose_small"],
        ),
        max_accuracy_drop=bar["max_accuracy_drop"],
        groups=groups_of(order),
        training_seconds=order["training_seconds"],
        progress=progress,
        plot=plot,
        references=_references(order, spec),
        prepared=_prepared(order),
        keep=left.update,
        journal=journal,
        extractor=extractor_of(order),
        retrained=_stored(order["retrained"], spec, _device(order)) if "retrained" in order else None,
        earlier=[
            EarlierSet(
                evaluation_id=each["evaluation_id"],
                num_samples=each["num_samples"],
                samples=take(each["positions"]) if each["positions"] else None,
            )
            for each in order["earlier"]
        ],
    )
    checkpoints.save(model, Path(order["out"]) / WEIGHTS_FILE)
    report["preparations"] = [
        {"name": name, "samples": file["samples"], "seconds": file["seconds"]}
        for name, file in order["prepared"].items()
    ]
    retained = len(order["train"]) - len(order["forget_index"])
    return {"report": report, "plots": drawn, "prepared": _keep_all(left, order, samples=retained)}


def _reexecute(order: Order, progress: Progress) -> dict[str, Any]:
    """Do an erasure's unlearning again from the parent's weights, and compare the weights that come of it.

    Infinity is no JSON: a difference that is not finite is None.
    """
    take, spec, device = _samples(order), _spec(order), _device(order)
    started = time.perf_counter()
    with deterministic(order["seed"]):
        result = pipeline.unlearn(
            spec,
            _stored(order, spec, device),
            _unlearning_splits(order, take),
            _config(order),
            method=order["method"],
            seed=order["seed"],
            max_accuracy_drop=order["bar"]["max_accuracy_drop"],
            progress=lambda _, done, total: progress(REEXECUTE, done, total),
            prepared=_prepared(order),
        )
    first, again = (Path(order["out"]) / name for name in (WEIGHTS_FILE, REEXECUTED_FILE))
    checkpoints.save(result.model, again)
    apart = checkpoints.largest_difference(first, again)
    return {
        "device": device.type,
        "max_relative_difference": apart if math.isfinite(apart) else None,
        "seconds": time.perf_counter() - started,
    }


def _config(order: Order) -> MethodConfig:
    method = METHODS[order["method"]]
    return method.config.model_validate(method.options_on(_spec(order).task, order["config"]))


def _unlearning_splits(order: Order, take: Callable[[list[int]], LabelledSet]) -> UnlearningSplits:
    train, selection = take(order["train"]), take(order["selection"])
    index = torch.tensor(order["forget_index"], dtype=torch.int64, device=_device(order))
    if "retained_labels" in order:
        labels = torch.tensor(order["retained_labels"], dtype=torch.int64)
        return UnlearningSplits.forget_only(train.take(index), selection, retained_labels=labels)
    positions = torch.tensor(order["train"], dtype=torch.int64)
    return UnlearningSplits(train=train, forget_index=index, selection=selection, positions=positions)


def _prepare(order: Order, progress: Progress, journal: Journal) -> dict[str, Any]:
    take, spec = _samples(order), _spec(order)
    pool, population = (
        PlacedSamples(samples=take(order[name]), positions=torch.tensor(order[name], dtype=torch.int64))
        for name in ("pool", "population")
    )
    found = train_references(
        spec,
        pool,
        population,
        models=order["models"],
        seed=order["seed"],
        device=_device(order),
        progress=progress,
        journal=journal,
    )
    origin = reference_files.Origin(
        spec_sha256=spec_digest(spec), dataset_sha256=order["dataset"]["digest"], seed=order["seed"], way=found.plan.way
    )
    reference_files.save(found.logits, Path(order["out"]) / REFERENCES_FILE, origin=origin)
    return {"models": order["models"], "rows": len(order["pool"]), "seconds": found.seconds}


def _prepare_version(order: Order, progress: Progress) -> dict[str, Any]:
    take, spec = _samples(order), _spec(order)
    found = prepare(
        _stored(order, spec, _device(order)),
        take(order["train"]),
        order["prepare"],
        task=pipeline.task_for(spec, spec.recipe.seed),
        progress=progress,
    )
    positions = torch.tensor(order["train"], dtype=torch.int64)
    return {"prepared": [_keep(made, Path(order["out"]), positions) for made in found]}


def _keep_all(prepared: Mapping[str, Mapping[str, Tensor]], order: Order, *, samples: int) -> list[dict[str, Any]]:
    """Write what came with a model, at no time of its own; return what is said of it."""
    found = [Made(name=name, tensors=tensors, samples=samples, seconds=0.0) for name, tensors in prepared.items()]
    return [_keep(made, Path(order["out"]), torch.tensor([])) for made in found]


def _keep(made: Made, out: Path, positions: Tensor) -> dict[str, Any]:
    """Write a preparation, with the samples' positions where it has a row for each; return what is said of it."""
    rows = {"positions": positions} if made.name == "teacher_logits" else {}
    file = f"{made.name}.safetensors"
    checkpoints.save_tensors({**made.tensors, **rows}, out / file)
    return {"name": made.name, "file": file, "samples": made.samples, "seconds": made.seconds}


def _prepared(order: Order) -> dict[str, Mapping[str, Tensor]]:
    """Return what was prepared of the parent; logits in the order of the training samples, if they cover them."""
    files = order["prepared"].items()
    found = {name: checkpoints.load(Path(file["path"]), sha256=file["sha256"]) for name, file in files}
    if "teacher_logits" in found:
        rows = found.pop("teacher_logits")
        at = {position: row for row, position in enumerate(rows["positions"].tolist())}
        index = [at.get(position, -1) for position in order["train"]]
        if -1 not in index:
            found["teacher_logits"] = {"logits": rows["logits"][torch.tensor(index, dtype=torch.int64)]}
    return found


def _trim(order: Order, progress: Progress) -> dict[str, Any]:
    progress("trimming", 0, 1)
    file, positions = order["references"], torch.tensor(order["positions"], dtype=torch.int64)
    target = Path(order["out"]) / REFERENCES_FILE
    sha256 = reference_files.rewrite_without(Path(file["path"]), target, positions, sha256=file["sha256"])
    left, _ = reference_files.load(target, sha256=sha256)
    return {"models": left.models, "rows": len(left.positions)}


def _references(order: Order, spec: ModelSpec) -> PlacedReferences | None:
    """Return what was prepared for the model, unless it was for another network or dataset."""
    file = order.get("references")
    if file is None:
        return None
    logits, origin = reference_files.load(Path(file["path"]), sha256=file["sha256"])
    if (origin.spec_sha256, origin.dataset_sha256) != (spec_digest(spec), order["dataset"]["digest"]):
        return None
    forget = [order["train"][i] for i in order["forget_index"]]
    placed = {"forget": forget, **{name: order[name] for name in ("audit", "test", "population")}}
    positions = {name: torch.tensor(where, dtype=torch.int64) for name, where in placed.items()}
    return PlacedReferences(logits=logits, positions=positions)


def extractor_of(order: Order) -> Extractor | Absent:
    """Return the network that FID is taken with, where the operator provides its weights, or why there is none."""
    if "inception" not in order:
        return NOT_NAMED
    path = Path(order["inception"])
    try:
        sha256 = checkpoints.file_digest(path)
        tensors = checkpoints.load(path, sha256=sha256)
    except (BadCheckpoint, OSError):
        return Absent(why="the file of UNLEARN_INCEPTION_WEIGHTS is not there, not readable or not safetensors")
    return inception(tensors, sha256=sha256, device=_device(order))


_TRAININGS: dict[str, Callable[[Order, Progress, Journal], dict[str, Any]]] = {
    "train": _train,
    "erase": _erase,
    "prepare": _prepare,
}
_KINDS: dict[str, Callable[[Order, Progress], dict[str, Any]]] = {
    "validate": _validate,
    "reexecute": _reexecute,
    "trim": _trim,
    "prepare_version": _prepare_version,
}
