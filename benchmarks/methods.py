"""Every method beside retraining on Fashion-MNIST: what it forgets, what it costs, whole class and random 10 %.

One JSON line per method, scenario and seed is added to --out as it is measured; a run that was broken off goes on
where it stopped. `python -m benchmarks.method_table` makes a table and a plot of the file. The relearning delays are
those of one seed a side, to keep the whole within the time; the parent's and the retrained model's are read once per
scenario and seed. Needs the IDX files of Fashion-MNIST under --root.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.beside_retraining import Yardstick, add_missing_rows, rows_for, yardstick_for
from benchmarks.circumstances import circumstances
from benchmarks.gate import fashion_pools
from service.catalogue.methods import AUTO
from service.catalogue.recipe import Recipe
from workers.pipeline import ModelSpec
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningSplits

SCENARIOS = ("random", "class")
FORGOTTEN_CLASS = 3
SHOWN = (
    "accuracy.retain",
    "accuracy.forget",
    "accuracy.unseen",
    "accuracy.test",
    "utility_drop.test",
    "mia_threshold.phi.auc",
    "forget_error.excess",
    "avg_gap",
    "tow",
    "js_divergence.forget",
    "relearning_delay.forget",
    "relearning_delay.unseen",
    "relearning_ratio",
    "anamnesis",
)
CORE = (
    AUTO,
    "neggrad_plus",
    "ieu",
    "noise_finetune",
    "scrub",
    "scrub_r",
    "salun",
    "ssd",
    "delete",
    "mu_mis",
    "finetune",
)
"""Those measured unless others are named. A model for SISA is another model: an ensemble, trained for it."""


def main() -> int:
    """Measure what the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--methods", nargs="+", default=CORE)
    parser.add_argument("--architecture", default="small_cnn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    cells = [(scenario, seed) for scenario in given.scenarios for seed in range(given.seeds)]

    def measure(scenario: str, seed: int, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        head = {"scenario": scenario, "seed": seed}
        yield from rows_for(wanted, _yardstick(given, scenario, seed), head, shown=SHOWN)

    add_missing_rows(given.out, cells, given.methods, measure)
    print(json.dumps(circumstances("torch"), indent=2))
    return 0


def _yardstick(given: argparse.Namespace, scenario: str, seed: int) -> Yardstick:
    pools = {name: samples.to(given.device) for name, samples in fashion_pools(given.root, given.train, seed).items()}
    spec = ModelSpec(
        architecture=given.architecture,
        options={"width": 16} if given.architecture == "small_cnn" else {},
        image_shape=(1, 28, 28),
        num_classes=10,
        recipe=Recipe(seed=seed, epochs=given.epochs),
    )
    splits = UnlearningSplits(
        train=pools["train"], forget_index=_chosen(pools["train"], scenario, seed), selection=pools["selection"]
    )
    return yardstick_for(spec, splits, audit=pools["audit"], test=pools["test"], seed=seed, device=given.device)


def _chosen(train: LabelledSet, scenario: str, seed: int) -> Tensor:
    if scenario == "class":
        return (train.labels == FORGOTTEN_CLASS).nonzero().squeeze(1)
    return torch.randperm(len(train), generator=generator_for(seed))[: len(train) // 10].to(train.device)


if __name__ == "__main__":
    sys.exit(main())
