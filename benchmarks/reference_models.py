"""What reference models cost: copies stacked against copies one after the other, and seconds and bytes per model.

The two ways take turns within one run. Then `train_references` is run whole on one data set, in the way it chooses
by itself, and the time of one plain training on all of the train set stands beside it.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.circumstances import circumstances
from service.catalogue.recipe import Recipe
from workers import data
from workers.classification import Classification
from workers.data import pools
from workers.evaluation.reference_masks import balanced_halves
from workers.pipeline import ModelSpec, build_model, train_original
from workers.reference_files import Origin, save
from workers.reference_training import PlacedSamples, spec_digest, train_references
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.stacked_training import Copy, train_copies
from workers.stacking import stacked_size

TASK = Classification()


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="Fashion-MNIST's folder; without it, scikit-learn's digits")
    parser.add_argument("--train", type=int, default=6000, help="Fashion-MNIST images to train on")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--ratio-samples", type=int, default=512, help="samples in the comparison of the two ways")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parts, spec = _load(given)
    found = {
        # first: the other raises the process's peak of memory
        "whole": _whole(spec, parts, given),
        "ways": _ways(spec, parts["train"].samples, given),
        "settings": {key: value for key, value in vars(given).items() if key != "root"},
        "circumstances": circumstances("torch"),
    }
    print(json.dumps(found, indent=2))
    return 0


def _load(given: argparse.Namespace) -> tuple[dict[str, PlacedSamples], ModelSpec]:
    source: dict[str, Any] = {"source": "sklearn:digits"}
    if given.root:
        source = {
            "source": "torchvision:FashionMNIST",
            "root": given.root,
            "subset": {"train": given.train, "test": given.train // 5, "seed": 0},
        }
    arrays = data.read(source)
    pool_of = np.array(pools.cut(arrays, b"benchmark")[1])
    images, labels = torch.from_numpy(arrays.images.copy()), torch.from_numpy(arrays.labels.copy())
    parts = {}
    for name, wanted in (("train", ["train"]), ("pool", ["train", "audit"]), ("population", ["population"])):
        index = torch.from_numpy(np.flatnonzero(np.isin(pool_of, wanted)))
        parts[name] = PlacedSamples(samples=LabelledSet(images=images[index], labels=labels[index]), positions=index)
    channels, height, width = images.shape[1:]
    spec = ModelSpec(
        architecture="small_cnn",
        image_shape=(channels, height, width),
        num_classes=arrays.num_classes,
        recipe=Recipe(epochs=given.epochs),
    )
    return parts, spec


def _ways(spec: ModelSpec, samples: LabelledSet, given: argparse.Namespace) -> dict[str, Any]:
    """Time one epoch of all copies, in turn; the first turn is warm-up."""
    samples = samples.take(torch.arange(min(given.ratio_samples, len(samples)))).to(given.device)
    recipe = spec.recipe.model_copy(update={"epochs": 1})
    mask = balanced_halves(samples.labels, given.models, generator=generator_for(0))
    seconds: dict[str, list[float]] = {"stacked": [], "plain": []}
    cpu_seconds: dict[str, list[float]] = {"stacked": [], "plain": []}
    for repeat in range(given.repeats + 1):
        for way in sorted(seconds, reverse=bool(repeat % 2)):
            copies = [
                Copy(
                    model=build_model(spec, seed).to(given.device),
                    rows=row.nonzero().squeeze(1),
                    generator=generator_for(seed),
                )
                for seed, row in enumerate(mask)
            ]
            started, cpu_started = _now(given.device), time.process_time()
            train_copies(copies, samples, recipe, task=TASK, at_once=given.models if way == "stacked" else 1)
            seconds[way].append(_now(given.device) - started)
            cpu_seconds[way].append(time.process_time() - cpu_started)
    medians = {way: median(taken[1:]) for way, taken in seconds.items()}
    cpu_medians = {way: median(taken[1:]) for way, taken in cpu_seconds.items()}
    copies_in_gib = stacked_size(
        build_model(spec).to(given.device), samples, batch_size=recipe.batch_size, budget_bytes=2**30, task=TASK
    )
    return {
        "samples": len(samples),
        "stacked_epoch_seconds": medians["stacked"],
        "plain_epoch_seconds": medians["plain"],
        "plain_over_stacked": round(medians["plain"] / medians["stacked"], 3),
        "cpu_plain_over_stacked": round(cpu_medians["plain"] / cpu_medians["stacked"], 3),
        "copies_that_fit_in_1_gib": copies_in_gib,
    }


def _whole(spec: ModelSpec, parts: dict[str, PlacedSamples], given: argparse.Namespace) -> dict[str, Any]:
    started, cpu_started = _now(given.device), time.process_time()
    train_original(spec, parts["train"].samples, device=given.device)
    one, cpu_one = _now(given.device) - started, time.process_time() - cpu_started
    before, cpu_started = _peak_bytes(given.device), time.process_time()
    trained = train_references(
        spec, parts["pool"], parts["population"], models=given.models, seed=0, device=given.device
    )
    cpu_all = time.process_time() - cpu_started
    origin = Origin(spec_sha256=spec_digest(spec), dataset_sha256="0" * 64, seed=0, way=trained.plan.way)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "references"
        save(trained.logits, path, origin=origin)
        size = path.stat().st_size
    return {
        "pool_samples": len(parts["pool"].positions),
        "population_samples": len(parts["population"].positions),
        "way": trained.plan.way,
        "at_once": trained.plan.at_once,
        "seconds": trained.seconds,
        "seconds_per_model": trained.seconds / given.models,
        "one_original_seconds": one,
        "over_one_original": round(trained.seconds / one, 2),
        "cpu_seconds_per_model": cpu_all / given.models,
        "cpu_over_one_original": round(cpu_all / cpu_one, 2),
        "peak_bytes_before": before,
        "peak_bytes": _peak_bytes(given.device),
        "file_bytes": size,
        "file_bytes_per_model": size // given.models,
    }


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes(device: str) -> int:
    """Return the most memory held so far: the device's, or on a CPU the process's."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
