"""A worker that ends is started again: later and later while it keeps ending, at once after one that lived."""

import time
from itertools import pairwise

import pytest

from service import supervisor
from service.supervisor import Supervisor


def _starts(monkeypatch: pytest.MonkeyPatch, *, steady: float, most: float, pause: float = 0.05) -> list[float]:
    """Return when workers that end at once were started, five of them."""
    found: list[float] = []
    start = Supervisor._start_one

    def noted(self: Supervisor) -> object:
        found.append(time.monotonic())
        return start(self)

    monkeypatch.setattr(supervisor, "WORKER", ("-c", ""))
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", steady)
    monkeypatch.setattr(supervisor, "LEAST_PAUSE_SECONDS", pause)
    monkeypatch.setattr(supervisor, "MOST_PAUSE_SECONDS", most)
    monkeypatch.setattr(Supervisor, "_start_one", noted)
    running = Supervisor(stop_seconds=5)
    running.start()
    end = time.monotonic() + 60
    while len(found) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    running.stop()
    return found[:5]


def test_pauses_grow_while_workers_keep_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = _starts(monkeypatch, steady=60.0, most=1.0)
    assert starts[4] - starts[0] >= 0.05 + 0.1 + 0.2 + 0.4


def test_a_worker_that_lived_a_while_is_followed_after_the_least_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every one counts as having lived; were the pauses to grow, the fourth would be 4 s.
    starts = _starts(monkeypatch, steady=0.0, most=30.0, pause=0.5)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert len(pauses) == 4
    assert pauses[3] < 4
