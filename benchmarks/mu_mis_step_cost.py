"""What a step of MU-Mis costs beside a cross-entropy step on the same batch: same net, same update.

Steps are timed in turn and the medians compared; the ratio of CPU times beside it tells of a busy machine.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.circumstances import circumstances
from service.catalogue.methods import MuMisConfig
from service.catalogue.recipe import Recipe
from workers.architectures import build
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import take_step
from workers.unlearning.interface import Surroundings
from workers.unlearning.mu_mis import Descent

MAX_RATIO = 5.0
CLASSES, WARM_UP, RATE = 10, 3, 1e-6


def main() -> int:
    """Print the figures as JSON; return 1 if the ratio of medians is above the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mu_mis, cross_entropy = _contenders(given)
    taken: dict[str, list[tuple[float, float]]] = {"mu_mis": [], "cross_entropy": []}
    for repeat in range(WARM_UP + given.repeats):
        pair = [("mu_mis", mu_mis), ("cross_entropy", cross_entropy)]
        for name, step in pair[:: 1 if repeat % 2 else -1]:
            taken[name].append(_timed(step, given.device))
    wall = {name: median(row[0] for row in rows[WARM_UP:]) for name, rows in taken.items()}
    cpu = {name: median(row[1] for row in rows[WARM_UP:]) for name, rows in taken.items()}
    ratio = wall["mu_mis"] / wall["cross_entropy"]
    found = {
        "seconds": wall,
        "ratio": round(ratio, 2),
        "cpu_ratio": round(cpu["mu_mis"] / cpu["cross_entropy"], 2),
        "target": MAX_RATIO,
        "settings": vars(given),
        "circumstances": circumstances("torch"),
    }
    print(json.dumps(found, indent=2))
    return 1 if ratio > MAX_RATIO else 0


def _timed(step: Callable[[], object], device: str) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def _contenders(given: argparse.Namespace) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return one callable per contender that takes its next step."""
    shape = (1, given.image_size, given.image_size)
    images = torch.randint(256, (given.batch_size, *shape), generator=generator_for(0), dtype=torch.uint8)
    samples = LabelledSet(images=images, labels=torch.arange(given.batch_size) % CLASSES).to(given.device)
    net = build(given.architecture, {}, image_shape=shape, num_classes=CLASSES, seed=0).to(given.device).eval()
    task, plain = Classification(), copy.deepcopy(net)
    around = Surroundings(
        task=task, recipe=Recipe(), build_model=lambda _seed: copy.deepcopy(net), generator=generator_for(0)
    )
    config = MuMisConfig(lr=RATE, batch_size=given.batch_size, check_steps=1, last_layers=None)
    descent = Descent(copy.deepcopy(net), samples, config, around)
    optimizer = torch.optim.SGD(plain.parameters(), RATE)

    def cross_entropy() -> None:
        take_step(optimizer, task.per_sample_loss(plain, samples.images, samples.labels).mean())

    return descent.take_steps, cross_entropy


if __name__ == "__main__":
    sys.exit(main())
