"""The store's promises on both databases: transactions, bulk ids, rules no route can reach, silent errors."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from service import migrate
from service.catalogue.methods import METHODS
from service.errors import Conflict, InvalidRequest
from service.lifecycle import JobStatus, RequestStatus, SampleState
from service.settings import Settings
from service.store import audit, datasets, intake, jobs, request_outcomes, samples, settling, versions
from service.store.intake import Order, Secrets
from service.store.pipelining import pipelined
from service.store.session import Database
from service.store.tables import Dataset, Job, RequestKey, RequestSample, Sample, Worker, table_of
from service.store.types import now
from tests import factories
from workers.bench import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture
def database(bench: Bench) -> Database:
    return bench.database


def _order(name: str, *samples_named: str, **changes: Any) -> Order:
    order = factories.order(name, *samples_named)
    return replace(order, **changes)


def test_migrating_twice_changes_nothing(bench: Bench) -> None:
    before = audit_size(bench.database)
    migrate.upgrade(bench.settings.resolved_database_url)
    assert audit_size(bench.database) == before


def audit_size(database: Database) -> int:
    with database.reading() as session:
        return len(audit.find(session, limit=100_000))


def test_reading_throws_changes_away_and_a_failing_body_keeps_none(database: Database) -> None:
    before = audit_size(database)
    with database.reading() as session:
        session.add(Dataset(id="ds_r", name="read", source={}, state="ready"))
        session.flush()
    with pytest.raises(RuntimeError, match="stop"):
        _stop_half_way(database)
    with database.reading() as session:
        assert session.scalars(select(Dataset).where(Dataset.name.in_(["read", "half"]))).all() == []
    assert audit_size(database) == before


def _stop_half_way(database: Database) -> None:
    with database.writing() as session:
        datasets.register(session, name="half", source={"source": "npz"})
        raise RuntimeError("stop")


def test_references_are_enforced(database: Database) -> None:
    row = {"dataset_id": "ds_nobody", "sample_id": "x", "position": 0, "split": "train", "pool": "train", "label": 0}
    with pytest.raises(IntegrityError), database.writing() as session:
        samples.insert_many(session, [{**row, "state": "live"}])


def test_an_errors_text_holds_no_parameter(database: Database) -> None:
    with pytest.raises(DBAPIError) as failure, database.writing() as session:
        session.execute(text("SELECT * FROM no_such_table WHERE x = :id"), {"id": "patient-17"})
    assert "patient-17" not in str(failure.value)


def test_moments_keep_their_instant_and_must_have_a_zone(database: Database) -> None:
    east = datetime(2024, 5, 1, 3, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    with database.writing() as session:
        session.merge(Worker(id="w", started_at=east, seen_at=east))
    with database.reading() as session:
        found = session.get_one(Worker, "w").seen_at
    assert found == east
    assert found.utcoffset() == timedelta(0)
    with pytest.raises(StatementError, match="zone"), database.writing() as session:
        session.merge(Worker(id="w", started_at=east, seen_at=east.replace(tzinfo=None)))


def test_a_hundred_thousand_ids_are_looked_up_in_one_statement(bench: Bench) -> None:
    factories.dataset(bench, "bulk")
    ids = [f"nobody-{i}" for i in range(99_960)] + [f"bulk-train-{i}" for i in range(40)]
    with bench.database.reading() as session:
        dataset = datasets.ready(session, "bulk")
        found = samples.resolve(session, dataset.id, ids)
    assert set(found) == {f"bulk-train-{i}" for i in range(40)}


def test_what_a_method_does_not_need_is_not_asked_for(bench: Bench) -> None:
    factories.dataset(bench, "frugal")
    factories.model(bench, "frugal", of="frugal")
    factories.version(bench, "frugal")
    ran: list[str] = []

    def note(*given: Any) -> None:
        ran.append(given[2])

    with bench.database.writing() as session:
        intake.accept(session, _order("frugal", "train-0"), SECRETS)
        session.flush()
        event.listen(bench.database.engine, "before_cursor_execute", note)
        try:
            intake.accept(session, _order("frugal", "train-1"), SECRETS)
        finally:
            event.remove(bench.database.engine, "before_cursor_execute", note)
    assert ran
    assert not [statement for statement in ran if "prepared_files" in statement]
    assert len(ran) <= 11, "\n".join(ran)


@pytest.mark.parametrize("odd", ["%", "_", "'; DROP TABLE samples; --", '"', "\\", "ä\u0308", "\U0001f600", " x "])
def test_an_id_is_matched_as_it_is_and_nothing_else(bench: Bench, odd: str) -> None:
    name = f"odd{odd.encode().hex()}"
    factories.dataset(bench, name)
    with bench.database.writing() as session:
        dataset = datasets.ready(session, name)
        assert samples.resolve(session, dataset.id, [odd]) == {}
        row = session.scalars(select(Sample).where(Sample.dataset_id == dataset.id).limit(1)).one()
        row.sample_id = odd
        session.flush()
        assert list(samples.resolve(session, dataset.id, [odd, odd + " ", odd.upper() + "x"])) == [odd]


def test_a_class_left_without_samples_is_refused_where_the_method_needs_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.dataset(bench, "classes", train=8, classes=4)
    factories.model(bench, "classes", of="classes")
    factories.version(bench, "classes")
    of_class_1 = _order("classes", "train-1", "train-5")
    spec = replace(METHODS["finetune"], needs_in_class_retain=True)
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "finetune", spec)
        with pytest.raises(InvalidRequest) as refusal, bench.database.writing() as session:
            intake.accept(session, of_class_1, SECRETS)
        assert [(f.code, f.value) for f in refusal.value.faults] == [("class_left_without_samples", 1)]
    with bench.database.writing() as session:
        assert intake.accept(session, of_class_1, SECRETS).jobs


def test_the_whole_training_set_in_two_requests_is_refused_too(bench: Bench) -> None:
    factories.dataset(bench, "halves", train=8)
    factories.model(bench, "halves", of="halves")
    factories.version(bench, "halves")
    with bench.database.writing() as session:
        intake.accept(session, _order("halves", *(f"train-{i}" for i in range(4))), SECRETS)
    rest = _order("halves", *(f"train-{i}" for i in range(4, 8)))
    with pytest.raises(InvalidRequest) as refusal, bench.database.writing() as session:
        intake.accept(session, rest, SECRETS)
    assert refusal.value.faults[0].code == "forget_set_is_whole_training_set"


def test_an_erased_id_leaves_a_token_and_no_text(bench: Bench) -> None:
    factories.dataset(bench, "held")
    with bench.database.writing() as session:
        request = intake.accept(session, _order("held", "audit-0"), SECRETS).request
        assert request.status == RequestStatus.COMPLETED
    with bench.database.reading() as session:
        dataset = datasets.ready(session, "held")
        key = session.scalar(select(RequestSample.sample_id).where(RequestSample.request_id == request.id))
        row = session.get_one(Sample, key)
        assert (row.sample_id, row.state) == (None, SampleState.ERASED)
        found = samples.suppressed(session, SECRETS.suppression, dataset.id, ["held-audit-0", "held-audit-1"])
        assert found == {"held-audit-0"}
        assert samples.suppressed(session, b"other" * 8, dataset.id, ["held-audit-0"]) == set()


def test_a_version_that_was_not_trained_on_a_sample_needs_no_work_for_it(bench: Bench) -> None:
    factories.dataset(bench, "spared")
    factories.model(bench, "spared", of="spared")
    row = factories.version(bench, "spared")
    with bench.database.writing() as session:
        dataset = datasets.ready(session, "spared")
        found = samples.resolve(session, dataset.id, ["spared-train-0"])
        versions.exclude(session, row, [found["spared-train-0"].id])
        alone = intake.accept(session, _order("spared", "train-0"), SECRETS)
        assert alone.jobs == []
        assert request_outcomes.of_request(session, alone.request)["erased_not_trained_on"] == 1
        both = intake.accept(session, _order("spared", "train-1"), SECRETS)
        assert len(both.jobs) == 1


@pytest.mark.parametrize("purpose", ["bias", "confusion"])
def test_only_privacy_erases_the_id_itself(bench: Bench, purpose: str) -> None:
    factories.dataset(bench, purpose)
    with bench.database.writing() as session:
        request = intake.accept(session, _order(purpose, "audit-0", purpose=purpose), SECRETS).request
        assert (request.status, request.due_at) == (RequestStatus.COMPLETED, None)
    with bench.database.reading() as session:
        dataset = datasets.ready(session, purpose)
        assert samples.resolve(session, dataset.id, [f"{purpose}-audit-0"])


def test_the_due_date_of_a_job_is_its_most_urgent_requests(bench: Bench) -> None:
    factories.dataset(bench, "due")
    factories.model(bench, "due", of="due")
    factories.version(bench, "due")
    received = datetime(2024, 1, 31, 12, tzinfo=UTC)
    with bench.database.writing() as session:
        late = intake.accept(session, _order("due", "train-0"), SECRETS)
        early = intake.accept(session, _order("due", "train-1", received_at=received), SECRETS)
        assert late.jobs[0][0].id == early.jobs[0][0].id
    with bench.database.reading() as session:
        due_at = session.get_one(Job, early.jobs[0][0].id).due_at
    assert due_at == datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("status", [s for s in JobStatus if s not in ("held", "poisoned", "failed")])
def test_only_a_stuck_job_can_be_tried_again(bench: Bench, status: JobStatus) -> None:
    name = f"retry{status}"
    factories.dataset(bench, name)
    factories.model(bench, name, of=name)
    factories.version(bench, name)
    with bench.database.writing() as session:
        job = intake.accept(session, _order(name, "train-0"), SECRETS).jobs[0][0]
        job.status = status
    with pytest.raises(Conflict), bench.database.writing() as session:
        jobs.retry(session, jobs.get(session, job.id))
    with bench.database.writing() as session:
        found = jobs.get(session, job.id)
        found.status = JobStatus.FAILED
    with bench.database.writing() as session:
        found = jobs.get(session, job.id)
        jobs.retry(session, found)
        settling.begin(session, job.id)
        assert (found.status, found.attempts, found.finished_at) == (JobStatus.QUEUED, 0, None)


def test_the_sqlite_file_is_in_wal_mode_and_overwrites_what_is_deleted(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    with database.reading() as session:
        found = [
            session.execute(text(f"PRAGMA {p}")).scalar() for p in ("journal_mode", "secure_delete", "foreign_keys")
        ]
    database.dispose()
    assert found == ["wal", 1, 1]


def test_every_connection_to_sqlite_syncs_each_commit(tmp_path: Path) -> None:
    """An answered 202 is a promise; with less than FULL (2) a power cut could take back what was committed last."""
    settings = Settings(data_dir=tmp_path)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    with database.reading() as one, database.writing() as other, database.looking_up() as third:
        found = [each.execute(text("PRAGMA synchronous")).scalar() for each in (one, other, third)]
    database.dispose()
    assert found == [2, 2, 2]


def test_a_connection_that_the_server_closed_while_idle_is_replaced(
    postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.open(Settings(data_dir=tmp_path, database_url=postgres_database_url))
    monkeypatch.setattr("service.store.session.PING_AFTER_SECONDS", 0.0)
    with database.reading() as session:
        first = session.scalar(text("SELECT pg_backend_pid()"))
    with psycopg.connect(
        make_url(postgres_database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    ) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [first])
    with database.looking_up() as connection:
        second = connection.scalar(text("SELECT pg_backend_pid()"))
    database.dispose()
    assert second != first


def test_looking_up_holds_no_transaction_open(database: Database) -> None:
    found = text("SELECT count(*) FROM workers WHERE id = 'beside'")
    with database.looking_up() as connection:
        assert connection.scalar(found) == 0
        with database.writing() as session:
            session.merge(Worker(id="beside", started_at=now(), seen_at=now()))
        assert connection.scalar(found) == 1


def test_a_failure_inside_a_pipeline_keeps_nothing(database: Database) -> None:
    before = audit_size(database)
    with pytest.raises((IntegrityError, psycopg.errors.ForeignKeyViolation)):
        _break_a_reference(database)
    assert audit_size(database) == before
    with database.reading() as session:
        assert session.scalars(select(RequestKey).where(RequestKey.request_id.like("req_nobody%"))).all() == []


def _break_a_reference(database: Database) -> None:
    with database.writing() as session:
        audit.record(session, "test.failed", subject="test/1", payload={})
        with pipelined(session):
            for request_id in ("req_nobody", "req_nobody_else"):
                session.execute(insert(table_of(RequestKey)), {"request_id": request_id, "key": b"k" * 32})
