"""What was set up at the start counts for nothing in when the collector looks at what came since."""

import gc
from collections.abc import Iterator

import pytest

from service import garbage


@pytest.fixture
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_as_before")
def test_garbage_in_cycles_waits_for_no_share_of_what_was_set_up() -> None:
    set_up = [[number] for number in range(400_000)]
    garbage.long_lived()
    looked = gc.get_stats()[2]["collections"]
    left: list[list[object]] = []
    for _ in range(200_000):
        cycle: list[object] = []
        cycle.append(cycle)
        left.append(cycle)
        if len(left) > 5_000:  # old enough to have been looked at while they were in use
            left.clear()
            if gc.get_stats()[2]["collections"] > looked:
                break
    assert gc.get_stats()[2]["collections"] > looked
    assert len(set_up) == 400_000
