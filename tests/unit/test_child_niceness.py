"""The child gives way to what answers people on the same machine."""

import os

import pytest

from workers.runner import Runner


@pytest.mark.parametrize("niceness", [0, 3, 19])
def test_a_child_is_nicer_than_its_parent_by_as_much_as_is_set(niceness: int) -> None:
    runner, own = Runner(time_limit_seconds=60, idle_seconds=0, niceness=niceness), os.getpriority(os.PRIO_PROCESS, 0)
    runner._start()
    child = runner._child
    try:
        assert child is not None
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == min(own + niceness, 19)
    finally:
        runner.release_idle()
    assert child.poll() is not None
