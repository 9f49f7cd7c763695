"""A recurring duty: one process at a time sees to it, also after failures, and another when that one ends."""

import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from service import migrate
from service.deps import Parts
from service.duties import Duties, Duty
from service.settings import Settings
from service.store import duty_leases
from service.store.session import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path, database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    yield Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=Mock())
    database.dispose()


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
        duty_leases.give_back(session, "b")
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

    first, second = Duties(parts, [duty("first")]), Duties(parts, [duty("second")])
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
    both = [Duties(parts, [Duty(name="own", every_seconds=600, run=ran.append, everywhere=True)]) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.stop()
    assert ran == [parts, parts]
