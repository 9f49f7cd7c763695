"""The bell at rest: what it could not ring for is rung for as soon as the broker answers, and told of once."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from kombu.exceptions import OperationalError
from structlog.testing import capture_logs

from service import dispatch
from service.broker import TASK
from service.dispatch import MOST_OWED, Bell
from service.settings import Settings


class Broker:
    """Takes what is sent unless it is away; counts what was tried while it was."""

    def __init__(self) -> None:
        self.away, self.taken, self.tried = True, list[str](), 0

    def send_task(self, name: str, args: list[str], *, retry: bool) -> None:
        assert (name, retry) == (TASK, False)
        if self.away:
            self.tried += 1
            raise OperationalError("away")
        self.taken += args


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    found = Broker()
    monkeypatch.setattr(Celery, "send_task", found.send_task)
    monkeypatch.setattr(dispatch, "REST_SECONDS", 0.01)
    return found


@pytest.fixture
def bell(broker: Broker, tmp_path: Path) -> Bell:
    return Bell(Settings(data_dir=tmp_path))


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def _at_rest() -> bool:
    return any(thread.name == "bell" for thread in threading.enumerate())


def test_all_jobs_that_were_owed_are_rung_for_once_when_the_broker_answers(bell: Bell, broker: Broker) -> None:
    bell.ring(["a", "b"])
    bell.ring(["c", "a"])
    broker.away = False
    _until(lambda: not _at_rest())
    assert sorted(broker.taken) == ["a", "b", "c"]
    bell.ring(["d"])
    assert broker.taken[-1] == "d"


def test_the_newest_jobs_are_owed_and_no_more_than_a_bound(bell: Bell, broker: Broker) -> None:
    asked = [f"job-{number}" for number in range(MOST_OWED + 7)]
    bell.ring(asked)
    broker.away = False
    _until(lambda: not _at_rest())
    assert broker.taken == asked[7:]


def test_a_broker_that_is_away_is_told_of_once_and_so_is_its_return(bell: Bell, broker: Broker) -> None:
    with capture_logs() as told:
        bell.ring(["a", "b"])
        _until(lambda: broker.tried > 5)
        broker.away = False
        _until(lambda: not _at_rest())
    assert [each["event"] for each in told] == ["bell.not_rung", "bell.rung_again"]


def test_a_bell_that_is_closed_rings_no_more(bell: Bell, broker: Broker) -> None:
    bell.ring(["a"])
    bell.close()
    _until(lambda: not _at_rest())
    assert broker.taken == []
