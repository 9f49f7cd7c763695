"""What a request by SSD costs as the retain set grows, with the importance of all data prepared and without.

Most of a prepared request is the measuring of each strength tried, whose number depends on the importance.
Synthetic images: the cost depends on their number, not on what they show. CPU seconds, medians of runs in turn.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from statistics import median

import torch

from benchmarks.circumstances import circumstances
from service.catalogue.methods import SsdConfig
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.pipeline import ModelSpec, build_model
from workers.preparing import prepare
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning import METHODS
from workers.unlearning.interface import Surroundings, UnlearningSplits

SPEC = ModelSpec(
    architecture="small_cnn", options={"width": 16}, image_shape=(1, 28, 28), num_classes=10, recipe=Recipe(seed=0)
)


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forget", type=int, default=100)
    parser.add_argument("--retain", type=int, default=1000)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [_row(given.forget, factor * given.retain, given.runs) for factor in given.times]
    first = rows[0]
    for row in rows:
        row["prepared_ratio"] = round(row["prepared_s"] / first["prepared_s"], 2)
        row["unprepared_ratio"] = round(row["unprepared_s"] / first["unprepared_s"], 2)
    print(json.dumps({"rows": rows, **circumstances("torch")}, indent=2))
    return 0


def _row(forget: int, retain: int, runs: int) -> dict[str, float]:
    splits = UnlearningSplits(
        train=_samples(forget + retain, 0), forget_index=torch.arange(forget), selection=_samples(600, 1)
    )
    model = build_model(SPEC).eval()
    around = Surroundings(
        task=Classification(),
        recipe=SPEC.recipe,
        build_model=lambda seed: build_model(SPEC, seed),
        generator=generator_for(0),
        # the net knows nothing, so that no accuracy can be lost; what is measured is time
        max_accuracy_drop=1.0,
    )
    started = time.process_time()
    (made,) = prepare(model, splits.train, ["importance_loss"], task=Classification())
    preparation = time.process_time() - started
    ready = replace(around, prepared={made.name: made.tensors})
    spent: dict[str, list[float]] = {"prepared_s": [], "unprepared_s": []}
    for _ in range(runs):
        for name, each in (("prepared_s", ready), ("unprepared_s", around)):
            started = time.process_time()
            result = METHODS["ssd"](model, splits, SsdConfig(), around=each)
            spent[name].append(time.process_time() - started)
    return {
        "retain": retain,
        "strengths_tried": len(result.history) - 1,
        "preparation_s": round(preparation, 2),
        **{name: round(median(seconds), 2) for name, seconds in spent.items()},
    }


def _samples(count: int, seed: int) -> LabelledSet:
    generator = generator_for(seed)
    images = torch.randint(0, 256, (count, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(0, 10, (count,), generator=generator))


if __name__ == "__main__":
    sys.exit(main())
