"""Who waits for news asks only where there may be some, and misses none for good."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from service import migrate
from service.deps import Parts
from service.duties import Duties, Duty
from service.settings import Settings
from service.store import audit, workers
from service.store.session import Database
from service.store.stillness import Watch
from workers import sweeper
from workers.bench import Bench
from workers.sweeper import Sweeper


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path, database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Database.open(settings)
    yield found
    found.dispose()


def _happen(database: Database) -> None:
    with database.writing() as session:
        audit.record(session, "key.created", subject="key/k", payload={})


def test_a_watch_tells_of_what_happened_once_and_of_nothing_else(database: Database) -> None:
    watch = Watch(database)
    assert watch.changed(), "nobody has looked yet"
    assert not watch.changed()
    _happen(database)
    assert watch.changed()
    assert not watch.changed()
    with database.writing() as session:
        workers.seen(session, "w")
    assert not watch.changed(), "a sign of life is no news"


def test_a_duty_rests_while_nothing_happens_and_looks_again_after_it_did(database: Database, tmp_path: Path) -> None:
    parts = Parts(
        settings=Settings(data_dir=tmp_path), database=database, artifacts=Mock(), bell=Mock(), secrets=Mock()
    )
    ran, awake = list[float](), list[float]()
    duties = Duties(
        parts,
        [
            Duty(name="resting", every_seconds=0.01, run=lambda _: ran.append(time.monotonic())),
            Duty(name="awake", every_seconds=0.01, run=lambda _: awake.append(time.monotonic()), rests=False),
        ],
    )
    duties.start()
    _until(lambda: len(awake) >= 30)
    at_rest = len(ran)
    assert at_rest == 1, "it looked once, and then no more"
    _happen(database)
    _until(lambda: len(ran) > at_rest)
    duties.stop()


def test_a_sweeper_at_rest_does_a_round_when_something_happened_and_else_seldom(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds, signs = Mock(), Mock()
    monkeypatch.setattr(sweeper, "sweep", rounds)
    monkeypatch.setattr(sweeper, "sign", signs)
    bench = Mock(spec=Bench, database=database, runner=Mock())
    swept = Sweeper(bench, Mock())
    swept._turn()
    assert rounds.call_count == 1
    for _ in range(sweeper.REST_TURNS - 1):
        swept._turn()
    assert rounds.call_count == 1
    assert bench.runner.release_idle.call_count == sweeper.REST_TURNS - 1, "a child with nothing to do goes at rest too"
    assert signs.call_count == (sweeper.REST_TURNS - 1) // sweeper.SIGN_TURNS, (
        "the worker counts as alive all the while"
    )
    swept._turn()
    assert rounds.call_count == 2
    _happen(database)
    swept._turn()
    assert rounds.call_count == 3


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)
