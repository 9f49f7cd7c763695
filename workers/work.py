"""Carries out one order about a model in the child: files and tensors in, files and a JSON result out. No SQL."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service.catalogue.methods import METHODS
from service.catalogue.recipe import Recipe
from workers import checkpoints, pipeline
from workers.data import cache
from workers.evaluation.report import EvaluationSplits
from workers.pipeline import ModelSpec
from workers.samples import LabelledSet
from workers.training import Progress
from workers.unlearning.interface import UnlearningSplits

Order = Mapping[str, Any]
WEIGHTS_FILE = "weights.safetensors"


def execute(order: Order, progress: Progress) -> dict[str, Any]:
    """Do what the order says. Raises DataError, BadCheckpoint, TrainingError or UnlearningError."""
    return _KINDS[order["kind"]](order, progress)


def _spec(order: Order) -> ModelSpec:
    spec = order["spec"]
    recipe = Recipe.model_validate(spec["recipe"]) if spec["recipe"] else Recipe()
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
    )
    device = _device(order)

    def take(positions: list[int]) -> LabelledSet:
        index = np.asarray(positions, dtype=np.int64)
        return LabelledSet(
            images=torch.from_numpy(np.ascontiguousarray(images[index])),
            labels=torch.from_numpy(labels[index]),
        ).to(device)

    return take


def _parent(order: Order, spec: ModelSpec) -> nn.Module:
    tensors = checkpoints.load(Path(order["weights"]), sha256=order["sha256"])
    model = pipeline.build_model(spec)
    model.load_state_dict(dict(tensors))
    return model.to(_device(order)).eval()


def _train(order: Order, progress: Progress) -> dict[str, Any]:
    take = _samples(order)
    model, info = pipeline.train_original(_spec(order), take(order["train"]), device=_device(order), progress=progress)
    checkpoints.save(model, Path(order["out"]) / WEIGHTS_FILE)
    return {"info": info}


def _validate(order: Order, progress: Progress) -> dict[str, Any]:
    progress("validating", 0, 1)
    tensors = checkpoints.load(Path(order["weights"]), sha256=order["sha256"])
    return {"faults": pipeline.validate_parameters(_spec(order), tensors)}


def _erase(order: Order, progress: Progress) -> dict[str, Any]:
    take = _samples(order)
    spec = _spec(order)
    splits = UnlearningSplits(
        train=take(order["train"]),
        forget_index=torch.tensor(order["forget_index"], dtype=torch.int64, device=_device(order)),
        selection=take(order["selection"]),
    )
    model, report = pipeline.erase(
        spec,
        _parent(order, spec),
        splits,
        EvaluationSplits(
            retain=splits.retain, forget=splits.forget, audit=take(order["audit"]), test=take(order["test"])
        ),
        method=order["method"],
        config=METHODS[order["method"]].config.model_validate(order["config"]),
        seed=order["seed"],
        max_accuracy_drop=order["max_accuracy_drop"],
        groups={name: torch.tensor(index) for name, index in order["groups"].items()},
        training_seconds=order["training_seconds"],
        progress=progress,
    )
    checkpoints.save(model, Path(order["out"]) / WEIGHTS_FILE)
    return {"report": report}


_KINDS: dict[str, Callable[[Order, Progress], dict[str, Any]]] = {
    "train": _train,
    "validate": _validate,
    "erase": _erase,
}
