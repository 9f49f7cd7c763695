"""Make tables of what benchmarks.scenarios measured: one of all scenarios, and one for each in full."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.beside_retraining import read_rows
from benchmarks.forget_sets import SCENARIOS
from benchmarks.method_table import Column, Row, by_method, cell, table, time_share

COLUMNS: tuple[Column, ...] = (
    ("retain", "accuracy.retain", "{:.1%}"),
    ("forget", "accuracy.forget", "{:.1%}"),
    ("unseen", "accuracy.unseen", "{:.1%}"),
    ("test", "accuracy.test", "{:.1%}"),
    ("loss of test accuracy", "utility_drop.test", "{:.1%}"),
    ("average gap", "avg_gap", "{:.1%}"),
    ("error above unseen", "forget_error.excess", "{:.1%}"),
    ("attack AUC", "mia_threshold.phi.auc", "{:.3f}"),
    ("gone class, forget", "gone_class_accuracy.forget", "{:.1%}"),
    ("gone class, unseen", "gone_class_accuracy.unseen", "{:.1%}"),
    ("ic_err", "ic_err.test", "{:.1%}"),
    ("fgt_err", "fgt_err.test", "{:.1f}"),
    ("delay", "relearning_delay.forget", "{:.0f}"),
    ("ratio to unseen", "relearning_ratio", "{:.2f}"),
    ("ratio to retrained", "anamnesis", "{:.2f}"),
)
BRIEF: Mapping[str, tuple[tuple[str, str, float], ...]] = {
    "mislabelled": (("ic_err.test", "{:.1f}", 100), ("fgt_err.test", "{:.1f}", 1)),
}
OTHERWISE = (("avg_gap", "{:.1f}", 100), ("relearning_delay.forget", "{:.0f}", 1))
"""What a cell of the table of all scenarios holds: figures, how they are written, and in which unit."""


def main() -> int:
    """Print the table of all scenarios, then one per scenario."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--brief", action="store_true", help="The table of all scenarios alone.")
    given = parser.parse_args()
    rows = read_rows(given.rows)
    print("\n".join(overview(rows)))
    for scenario in () if given.brief else SCENARIOS:
        print("\n".join(table(scenario, [row for row in rows if row["scenario"] == scenario], COLUMNS)))
    return 0


def overview(rows: Sequence[Row]) -> list[str]:
    """Return a Markdown table: a row per method, a column per scenario, and the mean share of retraining's time."""
    found = [name for name in SCENARIOS if any(row["scenario"] == name for row in rows)]
    lines = [f"| method | {' | '.join(found)} | time of retraining |", "|" + "---|" * (len(found) + 2)]
    for method, runs in by_method(rows).items():
        cells = [_brief([run for run in runs if run["scenario"] == scenario], scenario) for scenario in found]
        lines.append(f"| `{method}` | {' | '.join(cells)} | {time_share([run for run in runs if 'figures' in run])} |")
    return [*lines, ""]


def _brief(runs: Sequence[Row], scenario: str) -> str:
    kept = [run for run in runs if "figures" in run]
    if not kept:
        return "–"
    told = [_scaled(kept, *figure) for figure in BRIEF.get(scenario, OTHERWISE)]
    return " · ".join(told) + (f" ({len(kept)} of {len(runs)})" if len(kept) < len(runs) else "")


def _scaled(rows: Sequence[Row], name: str, shape: str, unit: float) -> str:
    figures = [{"figures": {name: _times(row["figures"].get(name, {}).get("value"), unit)}} for row in rows]
    return cell(figures, name, shape)


def _times(value: float | None, unit: float) -> dict[str, float | None]:
    return {"value": None if value is None else unit * value}


if __name__ == "__main__":
    sys.exit(main())
