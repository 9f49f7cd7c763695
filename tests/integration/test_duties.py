"""A recurring duty: one process at a time sees to it, also after failures, and another when that one ends."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from service import clock, duties, migrate
from service.deps import Parts
from service.duties import Duties, Duty
from service.settings import Settings
from service.store import deadline_marks, duty_leases
from service.store.session import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path, database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    yield Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=Mock())
    database.dispose()


def _process(parts: Parts) -> Parts:
    """Return the parts of another process on the same database."""
    return replace(parts, draining=threading.Event())


def test_a_lease_is_one_owners_until_it_runs_out_or_is_given_back(parts: Parts) -> None:
    def take(owner: str, seconds: float) -> bool:
        with parts.database.writing() as session:
            return duty_leases.take(session, "clock", owner=owner, seconds=seconds)

    assert take("a", 60)
    assert take("a", 60), "renewed"
    assert not take("b", 60)
    assert take("a", 0)
    assert take("b", 60), "run out"
    with parts.database.writing() as session:
        duty_leases.give_back(session, "b", "clock")
    assert take("a", 60)


def test_of_two_processes_one_runs_a_duty_and_the_other_takes_over(parts: Parts) -> None:
    ran, enough = list[str](), threading.Event()

    def duty(name: str) -> Duty:
        def run(_: Parts) -> None:
            ran.append(name)
            if len(ran) >= 4:
                enough.set()
            raise RuntimeError("it fails every time")

        return Duty(name="shared", every_seconds=0.05, run=run)

    first, second = (Duties(_process(parts), [duty(name)]) for name in ("first", "second"))
    first.start()
    second.start()
    assert enough.wait(30)
    alone = ran[0]
    assert set(ran) == {alone}, "one of them, although it fails"
    holder, waiting = (first, second) if alone == "first" else (second, first)
    holder.stop()
    enough.clear()
    ran.clear()
    assert enough.wait(30)
    assert alone not in ran
    waiting.stop()


def test_a_duty_of_every_process_asks_for_no_lease_and_runs_once_more_at_the_end(parts: Parts) -> None:
    ran = list[Parts]()
    processes = [_process(parts), _process(parts)]
    both = [Duties(each, [Duty(name="own", every_seconds=600, run=ran.append, everywhere=True)]) for each in processes]
    for each in both:
        each.start()
    for each in both:
        each.stop()
    assert ran == processes


def test_a_process_that_drains_gives_its_duties_to_another_at_once(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "LEAST_LEASE_SECONDS", 100.0)  # far beyond what the test waits
    ran = threading.Event()
    draining = Duties(parts, [Duty(name="mine", every_seconds=0.01, run=lambda _: ran.set())])
    draining.start()
    assert ran.wait(30)
    assert not _taken(parts)
    parts.draining.set()
    end = time.monotonic() + 60
    while not _taken(parts):
        assert time.monotonic() < end
        time.sleep(0.02)
    draining.stop()


def _taken(parts: Parts) -> bool:
    with parts.database.writing() as session:
        return duty_leases.take(session, "mine", owner="another", seconds=60)


def test_a_duty_stops_between_two_things_once_the_process_drains(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[str] = []

    def announce(_: object, request_id: str) -> None:
        announced.append(request_id)
        parts.draining.set()

    monkeypatch.setattr(deadline_marks, "due_to_be_announced", lambda _: ["first", "second"])
    monkeypatch.setattr(deadline_marks, "announce", announce)
    clock.run(parts)
    assert announced == ["first"]
