"""Across workers, jobs are claimed earliest due first."""

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from service import migrate
from service.lifecycle import JobKind
from service.settings import Settings
from service.store import jobs
from service.store.session import Database
from service.store.tables import Job
from tests import factories
from workers.bench import Bench

MODELS = 30


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("order"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    with found.database.writing() as session:
        # A module of PostgreSQL tests shares one database.
        for job in session.scalars(select(Job).where(Job.status == "queued")):
            job.on_hold = True
    yield found
    found.database.dispose()


def _queue(bench: Bench, name: str) -> list[str]:
    """Queue a job for each of many models, due in an order of chance; return them in the order of their due dates."""
    factories.dataset(bench, name, train=4, held_out=1)
    due = [datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(MODELS)]
    random.Random(0).shuffle(due)
    found: dict[datetime, str] = {}
    for number, moment in enumerate(due):
        model = factories.model(bench, f"{name}{number}", of=name)
        with bench.database.writing() as session:
            job = jobs.create(session, JobKind.ERASE, dataset_id=model.dataset_id, model_id=model.id, method="finetune")
            job.due_at = moment
            found[moment] = job.id
    return [found[moment] for moment in sorted(found)]


def _claim(database: Database, owner: str) -> str | None:
    claim = jobs.claim_next(database, owner=owner, lease_seconds=600)
    return None if claim is None else claim.job_id


def test_two_workers_in_turn_take_the_earliest_due(bench: Bench) -> None:
    wanted, other = _queue(bench, "turns"), Database.open(bench.settings)
    taken = [_claim(database, owner) for _ in range(MODELS // 2) for owner, database in _both(bench, other)]
    assert taken == wanted
    assert _claim(other, "b") is None
    other.dispose()


def test_of_two_workers_at_once_each_takes_none_that_is_less_urgent_than_what_is_left(bench: Bench) -> None:
    wanted, other = _queue(bench, "once"), Database.open(bench.settings)
    taken: dict[str, list[str]] = {"a": [], "b": []}

    def work(owner: str, database: Database) -> None:
        while (job_id := _claim(database, owner)) is not None:
            taken[owner].append(job_id)

    threads = [threading.Thread(target=work, args=each) for each in _both(bench, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken["a"] + taken["b"]) == sorted(wanted), "each job once"
    turns = {job_id: turn for turn, job_id in enumerate(wanted)}
    for found in taken.values():
        assert [turns[job_id] for job_id in found] == sorted(turns[job_id] for job_id in found)
    other.dispose()


def _both(bench: Bench, other: Database) -> list[tuple[str, Database]]:
    return [("a", bench.database), ("b", other)]
