"""Writes the results in docs/crash-matrix.md from the outcomes of a run: `python -m tests.crash.table FOLDER`."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from service.faults import Step
from tests.crash.cells import ALL, PROCESSES, SIGNALS, Cell, Place

PAGE = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
Results = dict[str, dict[str, Any]]
_RESULTS = "<!-- results: written by `make crash` -->\n"


def main(folder: Path) -> int:
    """Write the page; return how many cells are not green."""
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    bad = [cell for cell in ALL if not found.get(cell.id, {}).get("ok")]
    about = PAGE.read_text().partition(_RESULTS)[0]
    parts = [about + _RESULTS, _summary(found, bad), *(_table(place, found) for place in Place), _not_green(bad)]
    PAGE.write_text("\n".join(part for part in parts if part))
    print(f"{len(ALL) - len(bad)} of {len(ALL)} cells green; {PAGE.name} written")
    return len(bad)


def _summary(found: Results, bad: Sequence[Cell]) -> str:
    lines = ["## Result", "", f"{len(ALL) - len(bad)} of {len(ALL)} cells are green."]
    seconds = sorted(each["seconds"] for each in found.values() if each["ok"])
    if seconds:
        lines += [f"A cell took {median(seconds):.1f} s in the median and {seconds[-1]:.1f} s at most.", ""]
    lines += [
        "Where a lease ran out: until the next attempt began, in lease lengths (aim: under 2 from the lease's end).",
        "",
        "| stack | cells | from the signal: median | worst | from the end of the lease: median | worst |",
        "|---|---|---|---|---|---|",
    ]
    for place in (Place.FILES, Place.SERVERS):
        rows = [found[cell.id] for cell in ALL if cell.place == place and cell.id in found]
        hits = [row["from_hit_leases"] for row in rows if row.get("from_hit_leases") is not None]
        ends = [row["from_lease_leases"] for row in rows if row.get("from_lease_leases") is not None]
        if ends:
            lines.append(f"| {place} | {len(ends)} | {_two(hits)} | {_two(ends)} |")
    lines += [
        "",
        "Where there is one worker, its start is in these times, and so is a stop of it: nobody else can take over.",
        "",
    ]
    return "\n".join(lines)


def _two(values: Iterable[float]) -> str:
    found = sorted(values)
    return f"{median(found):.2f} | {found[-1]:.2f}"


def _table(place: Place, found: Results) -> str:
    """One row for a step and a process; in each signal's column the attempts counted and the seconds."""
    lines = [f"## {place}", "", "Each field: attempts, seconds.", ""]
    lines += [f"| step | process | {' | '.join(SIGNALS)} |", "|---|---|" + "---|" * len(SIGNALS)]
    cells = {(cell.step, cell.process, cell.signal): cell for cell in ALL if cell.place == place}
    for step in Step:
        for process in PROCESSES[place]:
            row = [_field(cells.get((step, process, name)), found) for name in SIGNALS]
            if any(row):
                lines.append(f"| `{step}` | {process} | {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def _field(cell: Cell | None, found: Results) -> str:
    if cell is None:
        return ""
    result = found.get(cell.id)
    if result is None:
        return "not run"
    return f"{result['attempts']}, {result['seconds']:.1f} s" if result["ok"] else "**failed**"


def _not_green(bad: Sequence[Cell]) -> str:
    if not bad:
        return ""
    return "\n".join(["## Not green", "", *(f"- `{cell.id}`" for cell in bad), ""])


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1])) else 0)
