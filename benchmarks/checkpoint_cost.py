"""What keeping a training costs: a training kept after every epoch beside one that is not kept.

Each file is written and stored as a worker does it, into a local folder, with fsync, and timed by itself: the
difference of two trainings would be lost in the noise of a shared machine. Medians of CPU seconds and wall time are
printed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.circumstances import circumstances
from service.artifacts import ArtifactStore
from service.catalogue.recipe import Recipe
from workers.journal import FILE, FileJournal, Terms
from workers.line import Line
from workers.pipeline import ModelSpec, train_original
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training_state import Journal

CLASSES = 10


class StoringLine(Line):
    """Stores each file at once, in the training's own thread: a worker does it in another process meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._store = folder, ArtifactStore(str(folder / "artifacts"))
        self.sizes: list[int] = []

    def tell(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "checkpoint":
            file = self._folder / FILE
            self.sizes.append(file.stat().st_size)
            self._store.put(file)
            file.unlink()


class TimedJournal(FileJournal):
    """Times what is kept after each epoch: CPU seconds and wall time."""

    def __init__(self, terms: Terms, line: Line) -> None:
        super().__init__(terms, line)
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def write_if_due(self, current: Any, *, last: bool) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        super().write_if_due(current, last=last)
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def main() -> int:
    """Print one JSON object; return 1 if a training that was kept ends with other weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    recipe = Recipe(epochs=given.epochs, batch_size=128)
    spec = ModelSpec(architecture=given.architecture, image_shape=(1, 28, 28), num_classes=CLASSES, recipe=recipe)
    images = torch.randint(256, (given.samples, 1, 28, 28), generator=generator_for(0), dtype=torch.uint8)
    samples = LabelledSet(images=images, labels=torch.arange(given.samples) % CLASSES)
    epochs: dict[str, list[float]] = {"cpu": [], "wall": []}
    writes: dict[str, list[float]] = {"cpu": [], "wall": []}
    weights: list[dict[str, Any]] = []
    sizes: list[int] = []
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory() as name:
            line = StoringLine(Path(name))
            kept = TimedJournal(Terms(folder=Path(name), seconds=0, bound_to={}), line)
            cpu, wall = time.process_time(), time.perf_counter()
            plain = train_original(spec, samples, journal=Journal())
            epochs["cpu"].append((time.process_time() - cpu) / given.epochs)
            epochs["wall"].append((time.perf_counter() - wall) / given.epochs)
            weights += [plain.model.state_dict(), train_original(spec, samples, journal=kept).model.state_dict()]
            writes = {"cpu": writes["cpu"] + kept.cpu, "wall": writes["wall"] + kept.wall}
            sizes += line.sizes
    same = all(torch.equal(each[name], weights[0][name]) for each in weights for name in weights[0])
    found = {
        f"{clock}_time": {
            "epoch_seconds": median(epochs[clock]),
            "checkpoint_seconds": median(writes[clock]),
            "share_of_an_epoch": median(writes[clock]) / median(epochs[clock]),
        }
        for clock in ("cpu", "wall")
    } | {"checkpoint_bytes": max(sizes), "same_weights": same}
    print(json.dumps({**found, "settings": vars(given), **circumstances("torch", "safetensors")}, indent=2))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
