"""The crash matrix's cells, and the steps they name."""

from pathlib import Path

import pytest

from service.faults import Step
from tests.crash.cells import ALL, PROCESSES, SIGNALS, STEPS, Place, sample

ROOT = Path(__file__).parents[2]


def test_the_cells_leave_out_no_step_but_that_of_checkpoints_which_their_erasure_does_not_come_to() -> None:
    assert set(Step) - set(STEPS) == {Step.CHECKPOINT_STORED}


def test_the_matrix_has_every_step_process_and_signal_on_both_stacks_once() -> None:
    for place in (Place.FILES, Place.SERVERS):
        cells = [(cell.step, cell.process, cell.signal) for cell in ALL if cell.place == place]
        wanted = {(step, process, name) for step in STEPS for process in PROCESSES[place] for name in SIGNALS}
        assert len(cells) == len(wanted)
        assert set(cells) == wanted
    assert len({cell.id for cell in ALL}) == len(ALL)


@pytest.mark.parametrize("seed", range(20))
def test_a_sample_has_each_signal_on_both_stacks_and_a_broker(seed: int) -> None:
    found = sample(seed)
    assert len(set(found)) == 8
    both = {(place, name) for place in (Place.FILES, Place.SERVERS) for name in SIGNALS}
    assert {(cell.place, cell.signal) for cell in found} >= both
    assert any(cell.process == "broker" for cell in found)
    assert found == sample(seed)


def test_every_step_is_reached_somewhere_in_the_code() -> None:
    code = "".join(path.read_text() for part in ("service", "workers") for path in (ROOT / part).rglob("*.py"))
    assert not [step.name for step in Step if f"reach(Step.{step.name})" not in code]
