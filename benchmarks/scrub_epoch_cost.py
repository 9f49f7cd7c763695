"""What SCRUB's min epoch costs beside a plain fine-tuning epoch: same net, data, batch size and optimiser.

Epochs are timed in turn and the medians compared; the ratio of CPU times beside it tells of a busy machine. The
teacher's logits, computed once per run, are timed apart.
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
from service.catalogue.methods import FinetuneConfig, ScrubConfig
from service.catalogue.recipe import Recipe
from workers.architectures import build
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningSplits
from workers.unlearning.scrub import Lesson

MAX_RATIO = 1.15
SAMPLES, FORGET, CLASSES, WARM_UP = 1293, 93, 10, 2


def main() -> int:
    """Print the figures as JSON; return 1 if the ratio of medians is above the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--image-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    scrub_epoch, finetune_epoch, teacher_seconds = _contenders(given.image_size, given.batch_size, given.repeats)
    walls: dict[str, list[float]] = {"scrub": [], "finetune": []}
    cpus: dict[str, list[float]] = {"scrub": [], "finetune": []}
    for repeat in range(WARM_UP + given.repeats):
        # the order within a pair changes, so that neither always follows the other
        pair = [("scrub", scrub_epoch), ("finetune", finetune_epoch)][:: 1 if repeat % 2 else -1]
        for name, epoch in pair:
            wall, cpu = time.perf_counter(), time.process_time()
            epoch()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(time.process_time() - cpu)
    medians = {name: median(taken[WARM_UP:]) for name, taken in walls.items()}
    cpu_medians = {name: median(taken[WARM_UP:]) for name, taken in cpus.items()}
    ratio = medians["scrub"] / medians["finetune"]
    found = {
        "min_epoch_seconds": medians["scrub"],
        "finetune_epoch_seconds": medians["finetune"],
        "teacher_logits_seconds": teacher_seconds,
        "ratio": round(ratio, 3),
        "cpu_ratio": round(cpu_medians["scrub"] / cpu_medians["finetune"], 3),
        "target": MAX_RATIO,
        "settings": vars(given),
        "circumstances": circumstances("torch"),
    }
    print(json.dumps(found, indent=2))
    return 1 if ratio > MAX_RATIO else 0


def _contenders(size: int, batch: int, repeats: int) -> tuple[Callable[[], object], Callable[[], object], float]:
    """Return one callable per contender that runs its next epoch, and the seconds the lesson took to prepare."""
    generator = generator_for(0)
    images = torch.randint(256, (SAMPLES, 1, size, size), generator=generator, dtype=torch.uint8)
    samples = LabelledSet(images=images, labels=torch.arange(SAMPLES) % CLASSES)
    splits = UnlearningSplits(train=samples, forget_index=torch.arange(FORGET), selection=samples)
    # cut outside the timing, as a run cuts them once
    _ = splits.retain, splits.forget
    net = build("small_cnn", {}, image_shape=(1, size, size), num_classes=CLASSES, seed=0)
    around = Surroundings(
        task=Classification(), recipe=Recipe(), build_model=lambda _seed: copy.deepcopy(net), generator=generator
    )
    # named in full, whatever the defaults: both take the same steps
    steps = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
    started = time.perf_counter()
    lesson = Lesson(copy.deepcopy(net), splits, ScrubConfig(**steps, retain_batch_size=batch), around)
    teacher_seconds = time.perf_counter() - started
    tuning = FinetuneConfig(**steps, batch_size=batch, epochs=WARM_UP + repeats)
    epochs = finetuning_epochs(copy.deepcopy(net), splits, tuning, around)
    return lambda: lesson.min_epoch(1), lambda: next(epochs), teacher_seconds


if __name__ == "__main__":
    sys.exit(main())
