"""Every cell of the crash matrix; each writes its outcome into the folder CRASH_RESULTS. `make crash` runs this."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.crash.cells import ALL, Cell
from tests.crash.drive import play
from tests.crash.shelf import Shelf

RESULTS = Path(os.environ["CRASH_RESULTS"])
CELLS_ON_A_STACK = 20


@pytest.fixture(scope="module")
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with Shelf.open(request, tmp_path_factory) as found:
        yield found


def _grouped() -> Sequence[object]:
    """Return the cells as parameters, some twenty in a group that one process plays on one stack."""
    found = []
    for number, cell in enumerate(ALL):
        group = pytest.mark.xdist_group(f"{cell.place.name}-{number // CELLS_ON_A_STACK}")
        found.append(pytest.param(cell, id=cell.id, marks=group))
    return found


@pytest.mark.parametrize("cell", _grouped())
def test_a_request_survives_a_process_hit_at_a_step(shelf: Shelf, cell: Cell) -> None:
    file = RESULTS / f"{cell.id}.json"
    file.write_text(json.dumps({"ok": False}))
    with shelf.stack(cell.place) as crash:
        outcome = play(crash, cell)
    file.write_text(json.dumps({"ok": True, **asdict(outcome)}))
