"""The demo waits for a service that is slow to start, and for no other."""

import itertools
from typing import Any

import httpx
import pytest

from service import demo
from service.demo_calls import StepFailed


class _Process:
    def __init__(self, returncode: int | None) -> None:
        self.returncode = returncode

    def poll(self) -> int | None:
        return self.returncode


def _client(ready_at: float, clock: list[float]) -> httpx.Client:
    def answer(_: httpx.Request) -> httpx.Response:
        if clock[0] < ready_at / 2:
            raise httpx.ConnectError("not listening yet")
        return httpx.Response(200 if clock[0] >= ready_at else 503)

    return httpx.Client(transport=httpx.MockTransport(answer), base_url="http://demo")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only while somebody sleeps, a second at a time."""
    now = [0.0]
    ticks = itertools.count(1)

    def sleep(_: float) -> None:
        now[0] = float(next(ticks))

    monkeypatch.setattr("service.demo.time.monotonic", lambda: now[0])
    monkeypatch.setattr("service.demo.time.sleep", sleep)
    return now


def test_a_service_that_takes_two_minutes_to_start_is_waited_for(clock: list[float]) -> None:
    alive: Any = _Process(None)
    demo._until_ready(_client(120, clock), alive)
    assert clock[0] == 120


def test_a_service_that_has_ended_is_not_waited_for(clock: list[float]) -> None:
    ended: Any = _Process(3)
    with pytest.raises(StepFailed, match="exit code 3"):
        demo._until_ready(_client(120, clock), ended)
    assert clock[0] == 0


def test_a_service_that_never_gets_ready_fails_the_demo(clock: list[float]) -> None:
    alive: Any = _Process(None)
    with pytest.raises(StepFailed, match="not ready"):
        demo._until_ready(_client(1e9, clock), alive)
