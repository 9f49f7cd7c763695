"""What rows and kept models of benchmarks.generative are of: data, recipe, device, torch, and how they were measured.

Figures of two settings in one file are means of neither, so a run goes on with its own alone.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.beside_retraining import read_rows
from service.catalogue.architectures import ARCHITECTURES
from service.catalogue.recipe import Recipe
from workers.data import read
from workers.evaluation.generation.profile import GenerationProfile

Origin = dict[str, Any]


def source_of(root: Path | None) -> dict[str, str]:
    """Return the request that names the data: the digits, or Fashion-MNIST where its files lie."""
    return (
        {"source": "sklearn:digits"}
        if root is None
        else {"source": "torchvision:FashionMNIST", "root": str(root)}
    )  # fmt: skip


def origin_of(
    *,
    architecture: str,
    profile: GenerationProfile,
    root: Path | None = None,
    recipe: Mapping[str, Any],
    options: Mapping[str, Any],
    device: str = "cpu",
) -> Origin:
    """Return by name what would make other figures; the seed is told by every row. Reads the data."""
    arrays, source = read(source_of(root)), source_of(root)["source"]
    spec = ARCHITECTURES[architecture]
    return {
        "data": source,
        "data_sha256": _digest(arrays.images, arrays.labels),
        "image_shape": list(arrays.images.shape[1:]),
        "architecture": architecture,
        **spec.options(**options).model_dump(mode="json"),
        **Recipe(**{**spec.recipe, **recipe}).model_dump(mode="json", exclude={"seed"}),
        "device": torch.device(device).type,
        "torch": str(torch.__version__),
        "profile": asdict(profile),
    }


def another(path: Path, own: Origin, *, default: Origin) -> str | None:
    """Say what the rows of the file, or the models kept beside it, are of that is not this run's; None if nothing.

    What was written before it said what it is of counts as of the defaults.
    """
    kept = [json.loads(file.read_text()) for file in sorted(path.with_suffix(".models").glob("*.json"))]
    told = [_apart(made.get("of", default), own) for made in (*read_rows(path), *kept)]
    apart = next((words for words in told if words), None)
    if apart is None:
        return None
    return (
        f"{path} or the models in {path.with_suffix('.models')} are of other settings than this run: {apart}. "
        "Name another --out, or go on with those settings."
    )


def mixed(rows: Iterable[Mapping[str, Any]], *, default: Origin) -> str | None:
    """Say in what the rows of one file differ that a mean may not mix; None if in nothing."""
    made = [row.get("of", default) for row in rows]
    return next((words for each in made if (words := _apart(each, made[0]))), None)


def _apart(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    # through JSON, as rows are: a tuple comes back as a list
    there, here = json.loads(json.dumps(there)), json.loads(json.dumps(here))
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    return "; ".join(f"{name} {there.get(name)}, here {here.get(name)}" for name in names)


def _digest(*arrays: np.ndarray[Any, Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
