"""Make the table and the picture of what benchmarks.generative measured, and say which of its targets are reached.

The attack is judged by the gate's own rule on every run, not by means: a band says nothing of a mean's interval.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.beside_retraining import YARDSTICKS, read_rows
from benchmarks.generative import SCENARIOS, default_origin
from benchmarks.generative_origin import mixed
from benchmarks.method_table import Column, by_method, table
from service.catalogue.bounds import LOSS_AUC, default_bounds
from service.catalogue.tasks import Task
from workers.evaluation.bound_rules import Figures, Ruling, rule

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
ATTACK = next(bound for bound in default_bounds(Task.GENERATION, "privacy") if bound.metric == LOSS_AUC)
CAPPED = ("relearning_delay.forget", "relearning_adam.delay.forget", "anamnesis", "relearning_adam.anamnesis")
Means = Mapping[str, float]


def main() -> int:
    """Print a Markdown table per scenario and the targets; write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    rows = read_rows(given.rows)
    if told := mixed(rows, default=default_origin()):
        parser.error(f"{given.rows} has rows of several settings, whose means say nothing: {told}")
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
    attacks = {} if scenario == "class" else _attacks(rows)
    missed = {
        method: [*_missed(found, retrained, gone=scenario == "class"), *_given_away(attacks.get(method, ()))]
        for method, found in means.items()
        if method not in YARDSTICKS
    }
    lines = [f"- `{method}`: {'; '.join(faults) or 'reached'}" for method, faults in missed.items()]
    lines += [f"- `{method}`: {words}" for method, runs in by_method(rows).items() for words in _bounds_alone(runs)]
    lines += _untestable([ruling for method in missed for ruling in attacks.get(method, ())])
    for name in ("relearning_delay.forget", "relearning_adam.delay.forget"):
        within = {m: means[m][name] for m, faults in missed.items() if not faults and name in means[m]}
        slowest = max(within, key=within.__getitem__, default="none")
        lines.append(f"- longest {name} within those bounds: {slowest}")
    return lines


def _attacks(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Ruling]]:
    """Return by method how the gate rules on the attack on each run, beside the original of the same training."""
    before = {row["seed"]: _attack(row) for row in _measured(rows) if row["method"] == "original"}
    return {
        method: [rule(ATTACK, Figures(own=_attack(run), parent=before.get(run["seed"], {}))) for run in _measured(runs)]
        for method, runs in by_method(rows).items()
    }


def _attack(run: Mapping[str, Any]) -> dict[tuple[str, str | None], Mapping[str, Any]]:
    # Rows that do not say how many samples the attack had, had as many a side as were forgotten at most.
    return {(LOSS_AUC, None): {"n": run["forgotten"], "verdict": "measured", **run["figures"][LOSS_AUC]}}


def _given_away(rulings: Sequence[Ruling]) -> list[str]:
    found = [ruling.verdict for ruling in rulings]
    return [
        f"attack {bad} in {found.count(bad)} of {len(found)} runs" for bad in ("fail", "inconclusive") if bad in found
    ]


def _untestable(rulings: Sequence[Ruling]) -> list[str]:
    """Say that no bound on the attack was among those above, where the gate could not have told either."""
    found = [ruling for ruling in rulings if ruling.verdict == "untestable"]
    if not found:
        return []
    return [
        f"- the attack is untestable in {len(found)} of {len(rulings)} runs, and is no bound there: {found[0].sentence}"
    ]


def _bounds_alone(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in how many runs a delay or a ratio hit the cap, and so entered its mean as a bound, or not at all."""
    kept = _measured(runs)
    hit = {name: sum(bool(run["figures"].get(name, {}).get("censored")) for run in kept) for name in CAPPED}
    return [f"{name} hit the cap in {count} of {len(kept)} runs" for name, count in hit.items() if count]


def _missed(found: Means, retrained: Means, *, gone: bool) -> list[str]:
    apart = abs(found["generation_accuracy.retain"] - retrained["generation_accuracy.retain"])
    farther = found["frechet_distance.retain"] / retrained["frechet_distance.retain"] - 1
    checks = {
        f"retained classes {100 * apart:.1f} points from retrained": apart <= RECOGNISED,
        f"distance {farther:+.0%}": farther <= FARTHER,
        f"time {found['time']:.0%}": found["time"] <= TIME,
        **{f"{name} {found[name]:.2f}": found[name] >= RATIO for name in ("anamnesis", "relearning_adam.anamnesis")
           if name in found},
    }  # fmt: skip
    if gone:
        drawn = found["generation_accuracy.forget"]
        checks[f"forgotten class drawn {drawn:.1%}"] = drawn <= DRAWN
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
