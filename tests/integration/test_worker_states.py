"""A worker that works, one that has nothing to do, one that leaves work lying, and one that is gone: told apart."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from service import migrate, worker_health
from service.lifecycle import JobKind
from service.settings import Settings
from service.store import jobs, workers
from service.store.session import Database
from service.store.tables import Dataset, Job, Worker
from service.store.types import now
from tests import factories

SWEEP = 5.0
LONG = timedelta(minutes=2)


@dataclass
class Store:
    settings: Settings
    database: Database

    def state(self, worker: str = "w:1") -> str | None:
        with self.database.reading() as session:
            found = {row.id: str(state) for row, state in workers.states(session, sweep_seconds=SWEEP)}
        return found.get(worker)

    def seen(self, worker: str = "w:1") -> None:
        with self.database.writing() as session:
            workers.seen(session, worker)

    def some_while_later(self) -> None:
        """Move into the past what was noted of work left lying."""
        with self.database.writing() as session:
            for row in session.query(Worker):
                if row.leaves_work_since is not None:
                    row.leaves_work_since -= LONG


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_database_url")
    settings = Settings(data_dir=tmp_path, database_url=url, sweep_seconds=SWEEP)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    found = Store(settings, database)
    factories.dataset(found, name=f"d-{secrets.token_hex(4)}")
    yield found
    with database.writing() as session:
        session.execute(delete(Worker))
        session.execute(update(Job).values(status="cancelled"))
    database.dispose()


def _queue(store: Store) -> str:
    with store.database.writing() as session:
        dataset_id = session.scalars(select(Dataset.id)).first()
        assert dataset_id is not None
        return jobs.create(session, JobKind.INDEX, dataset_id=dataset_id).id


def test_a_worker_is_told_by_what_it_does_with_the_work_there_is(store: Store) -> None:
    assert store.state() is None
    store.seen()
    assert store.state() == "idle"

    job_id = _queue(store)
    store.seen()
    assert store.state() == "idle", "it has had no time to take it"
    store.some_while_later()
    assert store.state() == "deaf"
    assert worker_health.check(store.settings, "w") == (False, "1 of 1 workers of w leave work lying: restart them")

    claim = jobs.claim_next(store.database, owner="w:1", lease_seconds=30)
    assert claim is not None
    assert claim.job_id == job_id
    assert store.state() == "busy"
    _queue(store)
    store.seen()
    store.some_while_later()
    store.seen()
    assert store.state() == "busy", "however much waits"
    assert worker_health.check(store.settings, "w") == (True, "busy")

    with store.database.writing() as session:
        session.get_one(Job, job_id).status = "completed"
        session.query(Job).filter(Job.status == "queued").update({Job.on_hold: True})
    store.seen()
    store.some_while_later()
    assert store.state() == "idle", "what is on hold is not there to be taken"


def test_a_silent_worker_is_gone_and_one_that_ended_in_good_order_is_forgotten(store: Store) -> None:
    store.seen("w:1")
    store.seen("w:2")
    with store.database.writing() as session:
        session.get_one(Worker, "w:1").seen_at = now() - LONG
        workers.left(session, "w:2")
    assert (store.state("w:1"), store.state("w:2")) == ("gone", None)
    assert worker_health.check(store.settings, "w")[0] is False
    store.seen("w:3")
    assert worker_health.check(store.settings, "w") == (True, "idle"), "one that died beside it does not count"
    assert worker_health.check(store.settings, "other")[0] is False
