"""The relearning runs of one model beside the plain loop: a reading of the whole set, then a step on a batch.

The default profile's six runs (four where the set is one batch: its order is nobody's) for a fixed number of steps, on
random images. The plain loop is written here as one would write it; stacked and one after the other are the service's
two ways. CPU seconds count beside wall time, since other work may take turns with this.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.circumstances import circumstances
from workers.architectures import build
from workers.classification import Classification
from workers.evaluation.relearning_curve import Target, endless_batches
from workers.evaluation.relearning_stacked import Protocol, Relearner, relearn_all
from workers.reproducibility import generator_for
from workers.samples import LabelledSet

TASK, MIN_TIMES, BATCH = Classification(), 2.0, 128
NEVER = Target(loss=-1.0, accuracy=2.0)
CASES = {
    "digits, 90 samples": ((1, 8, 8), 24, 90),
    "digits, 512 samples": ((1, 8, 8), 24, 512),
    "28x28, 128 samples": ((1, 28, 28), 16, 128),
    "28x28, 512 samples": ((1, 28, 28), 16, 512),
}


def main() -> int:
    """Print the figures as JSON; return 1 if the service's own choice misses the target in any case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    figures = {name: _case(*case, given) for name, case in CASES.items()}
    chosen = "stacked" if given.device.startswith("cuda") else "in_turn"
    missed = [name for name, found in figures.items() if found["times_wall"][chosen] < MIN_TIMES]
    shown = {"chosen": chosen, "cases": figures, "below_2_times": missed, "settings": vars(given)}
    print(json.dumps({**shown, "circumstances": circumstances("numpy")}, indent=2))
    return 1 if missed else 0


def _case(shape: tuple[int, int, int], width: int, count: int, given: argparse.Namespace) -> dict[str, Any]:
    net = build("small_cnn", {"width": width}, image_shape=shape, num_classes=10, seed=0).to(given.device).eval()
    sets = [_noise(shape, count, seed).to(given.device) for seed in range(4)]
    # the forget set first, once for all seeds where it is one batch
    walks = 1 if count <= BATCH else 3
    runs = [Relearner(samples=sets[0], seed=seed) for seed in range(walks)]
    runs += [Relearner(samples=samples, seed=seed) for seed, samples in enumerate(sets[1:])]
    protocol = Protocol(task=TASK, rate=0.01, target=NEVER, cap=given.steps, batch_size=BATCH)

    def service(*, stacked: bool) -> list[float]:
        curves = relearn_all(net, runs, protocol, done=lambda _: None, stacked=stacked)
        return [float(curve.mean_losses[-1]) for curve in curves]

    ways: dict[str, Callable[[], list[float]]] = {
        "plain": lambda: [_plain(net, run.samples, run.seed, given.steps) for run in runs],
        "in_turn": lambda: service(stacked=False),
        "stacked": lambda: service(stacked=True),
    }
    wall, cpu, ends = _in_turn(ways, given.repeats)
    return {
        "runs": len(runs),
        "seconds": wall,
        "times_wall": {way: round(wall["plain"] / wall[way], 2) for way in ("in_turn", "stacked")},
        "times_cpu": {way: round(cpu["plain"] / cpu[way], 2) for way in ("in_turn", "stacked")},
        "largest_difference_of_last_losses": float(
            max(np.abs(np.subtract(ends["plain"], ends[way])).max() for way in ("in_turn", "stacked"))
        ),
    }


def _plain(model: nn.Module, samples: LabelledSet, seed: int, steps: int) -> float:
    """Return the last loss of the loop as one would write it."""
    net = copy.deepcopy(model).eval()
    rule = torch.optim.SGD(net.parameters(), 0.01)
    batches, one_batch, mean = endless_batches(len(samples), BATCH, seed), len(samples) <= BATCH, 0.0
    for step in range(steps + 1):
        with torch.set_grad_enabled(one_batch):
            logits = TASK.logits(net, samples.images)
            loss = cross_entropy(logits, samples.labels, reduction="none")
        TASK.accuracy(logits.detach(), samples.labels)
        mean = float(loss.detach().double().mean())
        if step == steps:
            break
        if not one_batch:
            batch = samples.take(next(batches))
            loss = cross_entropy(TASK.logits(net, batch.images), batch.labels, reduction="none")
        rule.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        rule.step()
        float(nn.utils.get_total_norm([w.grad for w in net.parameters() if w.grad is not None]))
    return mean


def _noise(shape: tuple[int, int, int], count: int, seed: int) -> LabelledSet:
    generator = generator_for(seed)
    images = torch.randint(0, 256, (count, *shape), generator=generator).to(torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(10, (count,), generator=generator))


def _in_turn(
    ways: dict[str, Callable[[], list[float]]], repeats: int
) -> tuple[dict[str, float], dict[str, float], dict[str, list[float]]]:
    """Return each way's median wall and CPU seconds over the repeats, taken in turn, and its last losses."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    ends: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, run in ways.items():
            started, worked = time.perf_counter(), time.process_time()
            ends[name] = run()
            wall[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - worked)
    return {n: median(t) for n, t in wall.items()}, {n: median(t) for n, t in cpu.items()}, ends


if __name__ == "__main__":
    sys.exit(main())
