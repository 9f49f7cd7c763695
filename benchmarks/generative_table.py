"""Make the table and the picture of what benchmarks.generative measured, and say which of its targets are reached."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.beside_retraining import YARDSTICKS, read_rows
from benchmarks.generative import SCENARIOS
from benchmarks.method_table import Column, by_method, table
from service.catalogue.bounds import band_by_size

COLUMNS: tuple[Column, ...] = (
    ("forgotten drawn", "generation_accuracy.forget", "{:.1%}"),
    ("retained drawn", "generation_accuracy.retain", "{:.1%}"),
    ("Fréchet distance", "frechet_distance.retain", "{:.2f}"),
    ("test loss rise", "loss_rise.test", "{:.1%}"),
    ("attack AUC", "mia_threshold.loss.auc", "{:.3f}"),
    ("delay SGD", "relearning_delay.forget", "{:.0f}"),
    ("delay Adam", "relearning_adam.delay.forget", "{:.0f}"),
    ("to retrained, SGD", "anamnesis", "{:.2f}"),
    ("to retrained, Adam", "relearning_adam.anamnesis", "{:.2f}"),
)
TITLES = {"class": "A whole class", "random": "Random 10 %"}
DRAWN, RECOGNISED, FARTHER, RATIO, TIME = 0.05, 0.02, 0.10, 0.5, 0.15
"""At most so many samples of a forgotten class recognised; of retrained: points of recognition, share of distance,
least ratio of delays, share of time."""
CAPPED = ("relearning_delay.forget", "relearning_adam.delay.forget", "anamnesis", "relearning_adam.anamnesis")
Means = Mapping[str, float]


def main() -> int:
    """Print a Markdown table per scenario and the targets; write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    rows = read_rows(given.rows)
    for scenario in SCENARIOS:
        own = [row for row in rows if row["scenario"] == scenario]
        if own:
            print("\n".join(table(TITLES[scenario], own, COLUMNS)))
            print("\n".join(targets(scenario, own)), end="\n\n")
    if given.plot:
        picture(given.rows.with_suffix(".images"), given.plot)
    return 0


def targets(scenario: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line per method that says which targets its means over the seeds miss, and who relearns slowest."""
    means = {method: _means(kept) for method, runs in by_method(rows).items() if (kept := _measured(runs))}
    retrained = means.get("retrain")
    if retrained is None:
        return ["no retrained model was measured"]
    size = int(fmean(row["forgotten"] for row in rows))
    missed = {
        method: _missed(found, retrained, band=None if scenario == "class" else band_by_size(size, size))
        for method, found in means.items()
        if method not in YARDSTICKS
    }
    lines = [f"- `{method}`: {'reached' if not faults else '; '.join(faults)}" for method, faults in missed.items()]
    lines += [f"- `{method}`: {words}" for method, runs in by_method(rows).items() for words in _bounds_alone(runs)]
    for name in ("relearning_delay.forget", "relearning_adam.delay.forget"):
        within = {m: means[m][name] for m, faults in missed.items() if not faults and name in means[m]}
        slowest = max(within, key=within.__getitem__, default="none")
        lines.append(f"- longest {name} within those bounds: {slowest}")
    return lines


def _bounds_alone(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in how many runs a delay or a ratio hit the cap, and so entered its mean as a bound, or not at all."""
    kept = _measured(runs)
    hit = {name: sum(bool(run["figures"].get(name, {}).get("censored")) for run in kept) for name in CAPPED}
    return [f"{name} hit the cap in {count} of {len(kept)} runs" for name, count in hit.items() if count]


def _missed(found: Means, retrained: Means, *, band: float | None) -> list[str]:
    apart = abs(found["generation_accuracy.retain"] - retrained["generation_accuracy.retain"])
    farther = found["frechet_distance.retain"] / retrained["frechet_distance.retain"] - 1
    checks = {
        f"retained classes {100 * apart:.1f} points from retrained": apart <= RECOGNISED,
        f"distance {farther:+.0%}": farther <= FARTHER,
        f"time {found['time']:.0%}": found["time"] <= TIME,
        **{f"{name} {found[name]:.2f}": found[name] >= RATIO for name in ("anamnesis", "relearning_adam.anamnesis")
           if name in found},
    }  # fmt: skip
    if band is None:
        drawn = found["generation_accuracy.forget"]
        checks[f"forgotten class drawn {drawn:.1%}"] = drawn <= DRAWN
    else:
        auc = found["mia_threshold.loss.auc"]
        checks[f"attack {auc:.3f}"] = abs(auc - 0.5) <= band
    return [words for words, kept in checks.items() if not kept]


def _measured(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [run for run in runs if "figures" in run]


def _means(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = {name for run in runs for name in run["figures"]}
    values = {n: [v for run in runs if (v := run["figures"].get(n, {}).get("value")) is not None] for n in names}
    return {
        **{name: fmean(found) for name, found in values.items() if found},
        "time": fmean(run["seconds"] / run["retraining_s"] for run in runs),
    }


def picture(folder: Path, path: Path) -> None:
    """Draw one image of each class by every model of the class scenario, seed 0; a row per model."""
    kept = {file.stem.removeprefix("class-"): np.load(file) for file in sorted(folder.glob("class-*.npy"))}
    order = [name for name in YARDSTICKS if name in kept] + [name for name in kept if name not in YARDSTICKS]
    classes = max(len(images) for images in kept.values())
    made = Figure(figsize=(1.6 + 0.62 * classes, 0.9 + 0.62 * len(order)))
    grid = made.subplots(len(order), classes, squeeze=False)
    for row, name in zip(grid, order, strict=True):
        for axes, image in zip(row, kept[name], strict=True):
            axes.imshow(image.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    for label, axes in enumerate(grid[0]):
        axes.set_title(str(label), fontsize=9)
    made.suptitle("What each model draws when asked for a class; equal noise down a column", fontsize=10)
    made.savefig(path, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    sys.exit(main())
