"""Eight cells of the crash matrix, chosen by CRASH_SEED; `make crash` plays all."""

import os
from collections.abc import Iterator

import pytest

from tests.crash.cells import Cell, sample
from tests.crash.drive import play
from tests.crash.shelf import Shelf

SEED = int(os.environ.get("CRASH_SEED", "0"))


@pytest.fixture(scope="module")
def shelf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with Shelf.open(request, tmp_path_factory) as found:
        yield found


@pytest.mark.xdist_group("crash")
@pytest.mark.parametrize("cell", sample(SEED), ids=lambda cell: cell.id)
def test_a_request_survives_a_process_hit_at_a_step(shelf: Shelf, cell: Cell) -> None:
    print(f"CRASH_SEED={SEED}")
    with shelf.stack(cell.place) as crash:
        play(crash, cell)
