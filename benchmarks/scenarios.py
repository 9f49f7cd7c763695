"""Every method on every scenario of forgetting, on scikit-learn's digits: what it keeps, forgets, gives away and costs.

One JSON line per method, scenario and seed is added to --out as it is measured; a run that was broken off goes on
where it stopped. `python -m benchmarks.scenario_table` makes the tables. A method may be named with options, as in
`scrub/preset=confusion`. The retrained model is measured once per scenario and seed, relearning with one seed a side.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.beside_retraining import PLAIN_METHODS, Yardstick, add_missing_rows, rows_for, yardstick_for
from benchmarks.circumstances import circumstances
from benchmarks.forget_sets import SCENARIOS
from benchmarks.gate import pools_of
from service.catalogue.recipe import Recipe
from workers.data import read
from workers.data.source import SourceArrays
from workers.pipeline import ModelSpec
from workers.reproducibility import generator_for
from workers.unlearning.interface import UnlearningSplits

SHOWN = (
    "accuracy.retain",
    "accuracy.forget",
    "accuracy.unseen",
    "accuracy.test",
    "gone_class_accuracy.forget",
    "gone_class_accuracy.unseen",
    "utility_drop.test",
    "mia_threshold.phi.auc",
    "forget_error.rate.forget",
    "forget_error.excess",
    "ic_err.test",
    "fgt_err.test",
    "avg_gap",
    "relearning_delay.forget",
    "relearning_delay.unseen",
    "relearning_ratio",
    "anamnesis",
)


def main() -> int:
    """Measure what the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--methods", nargs="+", default=PLAIN_METHODS)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    arrays = read({"source": "sklearn:digits"})
    cells = [(scenario, seed) for seed in range(given.seeds) for scenario in given.scenarios]

    def measure(scenario: str, seed: int, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
        yardstick = _yardstick(arrays, scenario, seed, width=given.width, epochs=given.epochs)
        head = {"scenario": scenario, "seed": seed, "forgotten": len(yardstick.splits.forget)}
        yield from rows_for(wanted, yardstick, head, shown=SHOWN)

    add_missing_rows(given.out, cells, given.methods, measure)
    print(json.dumps(circumstances("torch", "scikit-learn"), indent=2))
    return 0


def _yardstick(arrays: SourceArrays, scenario: str, seed: int, *, width: int, epochs: int) -> Yardstick:
    cut = SCENARIOS[scenario](pools_of(arrays, seed), generator_for(seed))
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": width},
        image_shape=(1, 8, 8),
        num_classes=cut.num_classes,
        recipe=Recipe(seed=seed, epochs=epochs),
    )
    splits = UnlearningSplits(train=cut.pools["train"], forget_index=cut.forget_index, selection=cut.pools["selection"])
    return yardstick_for(spec, splits, audit=cut.pools["audit"], test=cut.pools["test"], seed=seed)


if __name__ == "__main__":
    sys.exit(main())
