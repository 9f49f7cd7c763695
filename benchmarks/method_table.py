"""Make the table and the plot of what benchmarks.methods measured: means over seeds, beside retraining."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.beside_retraining import read_rows
from benchmarks.methods import SCENARIOS

Row = Mapping[str, Any]
Column = tuple[str, str, str]
"""Its title, the figure, and how a value is written."""
COLUMNS: tuple[Column, ...] = (
    ("retain", "accuracy.retain", "{:.1%}"),
    ("forget", "accuracy.forget", "{:.1%}"),
    ("test", "accuracy.test", "{:.1%}"),
    ("average gap", "avg_gap", "{:.1%}"),
    ("ToW", "tow", "{:.3f}"),
    ("attack AUC", "mia_threshold.phi.auc", "{:.3f}"),
    ("delay", "relearning_delay.forget", "{:.0f}"),
    ("ratio to unseen", "relearning_ratio", "{:.2f}"),
    ("ratio to retrained", "anamnesis", "{:.2f}"),
)
TITLES = {"random": "Random 10 %", "class": "A whole class"}


def main() -> int:
    """Print a Markdown table per scenario and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    rows = read_rows(given.rows)
    for scenario in SCENARIOS:
        print("\n".join(table(TITLES[scenario], [row for row in rows if row["scenario"] == scenario], COLUMNS)))
    if given.plot:
        _plot(rows, given.plot)
    return 0


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each method, methods in the order they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return found


def table(title: str, rows: Sequence[Row], columns: Sequence[Column]) -> list[str]:
    """Return the lines of a Markdown table: a row per method, means over those of its seeds that gave a model."""
    head = [title, *(name for name, _, _ in columns), "time of retraining", "seeds"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method, runs in by_method(rows).items():
        kept = [run for run in runs if "figures" in run]
        cells = [cell(kept, name, shape) for _, name, shape in columns]
        cells += [time_share(kept), f"{len(kept)} of {len(runs)}"]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return [*lines, ""]


def time_share(rows: Sequence[Row]) -> str:
    """Return the mean share of retraining's time, a dash without any row."""
    return f"{fmean(row['seconds'] / row['retraining_s'] for row in rows):.0%}" if rows else "–"


def cell(rows: Sequence[Row], name: str, shape: str) -> str:
    """Return the mean of a figure over the rows that have it, a dash where none has."""
    values = _values(rows, name)
    return shape.format(fmean(values)) if values else "–"


def _values(rows: Sequence[Row], name: str) -> list[float]:
    found = [row["figures"].get(name, {}).get("value") for row in rows]
    return [value for value in found if value is not None]


def _plot(rows: Sequence[Row], path: Path) -> None:
    """Draw a panel per scenario. Points bear numbers, which the legend names: names would cover each other."""
    made = Figure(figsize=(11, 5.2), layout="constrained")
    names = list(dict.fromkeys(row["method"] for row in rows if "figures" in row))
    for scenario, axes in zip(SCENARIOS, made.subplots(1, len(SCENARIOS), sharey=True), strict=True):
        _panel(axes, by_method([row for row in rows if row["scenario"] == scenario]), names, scenario)
    text = "   ".join(f"{number}\u00a0{name}" for number, name in enumerate(names, 1))
    made.suptitle("How near retraining, and how long until the forgotten is known again (means over seeds)")
    made.supxlabel("\n".join(wrap(text, 110, break_on_hyphens=False)), fontsize=9)
    made.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, methods: Mapping[str, Sequence[Row]], names: Sequence[str], scenario: str) -> None:
    for method, runs in methods.items():
        kept = [run for run in runs if "figures" in run]
        gaps, delays = _values(kept, "avg_gap"), _values(kept, "relearning_delay.forget")
        if not gaps or not delays:
            continue
        x, y = 100 * fmean(gaps), fmean(delays)
        own = {"original": "black", "retrain": "tab:pink", "auto": "tab:green"}.get(method, "tab:blue")
        axes.scatter(x, y, color=own, s=28, zorder=3)
        if method == "retrain":
            axes.axhline(y, color=own, lw=0.8, ls=":")
        label = str(names.index(method) + 1)
        axes.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.set(title=TITLES[scenario], xlabel="average gap to retraining, points", xlim=(-0.2, None))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylabel("relearning delay, steps")
    axes.grid(color="0.9", lw=0.6)


if __name__ == "__main__":
    sys.exit(main())
