"""A database or broker that is away for a while costs no result."""

import errno
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event, text, update
from sqlalchemy.exc import OperationalError

from service import migrate, outages
from service.lifecycle import JobStatus, VersionState
from service.settings import Settings
from service.store.tables import Job, Version
from tests import factories
from tests.integration.lacks.stand_ins import (
    actions_of,
    answering,
    count_versions,
    queue_training,
    read_job,
    trained,
)
from workers import outcomes, sweeper, tasks
from workers.bench import Bench


class Away(OperationalError):
    """What the driver raises while the server restarts."""

    def __init__(self) -> None:
        super().__init__("SELECT 1", {}, psycopg.OperationalError("connection refused"))


def test_a_result_waits_for_a_database_that_is_away_for_a_moment(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, asked, away = queue_training(bench, name), 0, 3
    record = outcomes.record

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return trained(order)

    def refusing(*given: Any, **named: Any) -> None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise Away
        record(*given, **named)

    monkeypatch.setattr(outcomes, "record", refusing)
    assert tasks.run_all(answering(bench, answer)) == 1
    assert (read_job(bench, job_id).status, asked, away) == (JobStatus.PUBLISHED, 1, -1)


def test_a_result_committed_although_the_answer_was_lost_is_published_once(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, record, told = queue_training(bench, name), outcomes.record, 0

    def cut_off(*given: Any, **named: Any) -> None:
        nonlocal told
        told += 1
        record(*given, **named)
        if told == 1:
            raise Away

    monkeypatch.setattr(outcomes, "record", cut_off)
    assert tasks.run_all(answering(bench, trained)) == 1
    assert read_job(bench, job_id).status == JobStatus.PUBLISHED
    assert count_versions(bench, name) == 2
    assert actions_of(bench, job_id).count("job.published") == 1


def test_patience_with_the_database_ends(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = queue_training(bench, name)

    def refusing(*_: Any, **__: Any) -> None:
        raise Away

    monkeypatch.setattr(outcomes, "record", refusing)
    assert tasks.run_all(answering(bench, trained, outage_patience_seconds=0.0)) == 1
    job = read_job(bench, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.QUEUED, "database_unavailable")


def test_a_bell_heard_while_the_database_is_away_claims_nothing_and_ends_well(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue_training(bench, name)

    def refusing(*_: Any, **__: Any) -> None:
        raise Away

    monkeypatch.setattr(tasks, "replays", SimpleNamespace(pending=refusing))
    assert tasks.run_all(answering(bench, trained)) == 0
    assert read_job(bench, job_id).status == JobStatus.QUEUED


def test_what_a_job_is_for_being_unknown_to_its_log_lines_leaves_the_job_as_it_is(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue_training(bench, name)

    def refusing(*_: Any, **__: Any) -> None:
        raise Away

    monkeypatch.setattr(tasks, "requests", SimpleNamespace(of_job=refusing))
    assert tasks.run_all(answering(bench, trained, outage_patience_seconds=0.0)) == 1
    assert read_job(bench, job_id).status == JobStatus.PUBLISHED


def test_a_full_or_locked_sqlite_database_is_told_from_a_fault_of_the_program(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    small = create_engine("sqlite://")
    with small.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 4")
        connection.exec_driver_sql("CREATE TABLE t (x)")
        with pytest.raises(OperationalError) as found:
            connection.exec_driver_sql("INSERT INTO t VALUES (zeroblob(1000000))")
    small.dispose()
    lack = outages.lacking(found.value)
    assert lack is not None
    assert lack.code == "storage_full"

    full = Bench.open(settings)
    event.listen(full.database.engine, "connect", lambda raw, _: raw.execute("PRAGMA busy_timeout = 10"))
    other = sqlite3.connect(tmp_path / "unlearn.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError) as locked, full.database.writing() as session:
        session.execute(text("SELECT 1"))
    other.close()
    lack = outages.lacking(locked.value)
    assert lack is not None
    assert lack.code == "database_unavailable"
    with pytest.raises(OperationalError) as wrong, full.database.reading() as session:
        session.execute(text("SELECT nothing FROM nowhere"))
    assert outages.lacking(wrong.value) is None
    full.database.dispose()


def test_a_broker_that_is_gone_keeps_the_sweep_from_nothing(bench: Bench, name: str) -> None:
    queue_training(bench, name)
    rung: list[str] = []

    def gone(job_id: str) -> None:
        rung.append(job_id)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    version = factories.version(bench, name, state=VersionState.RETIRED)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.status == JobStatus.QUEUED).values(rung_at=None))
    for _ in range(4):
        sweeper.sweep(bench, gone)
    assert rung
    with bench.database.reading() as session:
        assert session.get_one(Version, version.id).state == VersionState.PURGED
