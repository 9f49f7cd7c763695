"""What is full, away, slow or wrong about the time ends in a stated state with what to do, and loses nothing."""

import errno
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.exc import OperationalError

from service import faults, migrate, outages
from service.artifacts import ArtifactStore
from service.lifecycle import JobKind, JobStatus, RequestStatus, VersionState
from service.settings import Settings
from service.store import audit, clock_skew, duty_leases, intake, jobs, models, requests, types, workers
from service.store.intake import Secrets
from service.store.jobs import Claim
from service.store.tables import AuditEntry, DeletionRequest, DutyLease, Job, Version, WebhookEvent, Worker
from service.store.types import now
from tests import factories
from workers import outcomes, retirement, sweeper, tasks
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.runner import ChildFailed, Runner, TimeLimitExceeded
from workers.worker_clock import WorkerClock

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("lacks"), database_url=url, max_attempts=3, lease_seconds=30)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    yield found
    found.database.dispose()


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


@pytest.fixture
def fault_points(tmp_path: Path) -> Iterator[Path]:
    faults.arm(tmp_path)
    yield tmp_path
    faults.arm(None)


class Answering(Runner):
    """A child that answers at once as told, having written weights."""

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        super().__init__(time_limit_seconds=1, idle_seconds=1)
        self.answer = answer

    def run(self, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        return self.answer(order)


def _trained(order: dict[str, Any]) -> dict[str, Any]:
    (Path(order["out"]) / "weights.safetensors").write_bytes(f"weights {order['out']}".encode())
    return {"info": {"seconds": 1.0}}


def _failing(code: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(_: dict[str, Any]) -> dict[str, Any]:
        raise ChildFailed({"code": code, "detail": "The storage has no room left."})

    return answer


def _train(bench: Bench, name: str) -> str:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        return jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id).id


def _erase(bench: Bench, name: str, method: str) -> tuple[str, str]:
    with bench.database.writing() as session:
        accepted = intake.accept(session, factories.order(name, "train-0", method=method), SECRETS)
        return accepted.request.id, accepted.jobs[0][0].id


def _job(bench: Bench, job_id: str) -> Job:
    with bench.database.reading() as session:
        return session.get_one(Job, job_id)


def _actions(bench: Bench, job_id: str) -> list[str]:
    with bench.database.reading() as session:
        rows = select(AuditEntry.action).where(AuditEntry.subject == f"job/{job_id}").order_by(AuditEntry.seq)
        return list(session.scalars(rows))


def _with(bench: Bench, answer: Callable[[dict[str, Any]], dict[str, Any]], **settings: Any) -> Bench:
    return replace(bench, runner=Answering(answer), settings=bench.settings.model_copy(update=settings))


def _due_now(bench: Bench, job_id: str) -> None:
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=now()))


def _versions(bench: Bench, name: str) -> int:
    with bench.database.reading() as session:
        model = models.by_name(session, name)
        return len(session.scalars(select(Version).where(Version.model_id == model.id)).all())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_a_result_leaves_nothing_and_the_job_waits_with_the_reason(
    bench: Bench, name: str, fault_points: Path, number: int
) -> None:
    job_id = _train(bench, name)
    before = set(ArtifactStore(bench.settings.resolved_artifacts_url).older_than(-1000))
    (fault_points / "artifact.writing").write_text(json.dumps({"do": "fail", "errno": number}))
    busy = _with(bench, _trained)
    assert tasks.run_all(busy) == 1, "it is not claimed again at once"
    job = _job(bench, job_id)
    code = "storage_full" if number == errno.ENOSPC else "storage_unavailable"
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 1)
    assert job.error is not None
    assert job.error["code"] == code
    assert "tried again at" in job.error["detail"]
    assert job.not_before is not None
    assert timedelta(seconds=30) < job.not_before - now() <= timedelta(seconds=60)
    with bench.database.writing() as session:
        assert jobs.to_ring(session, older_than_seconds=0) == [], "no bell before its time"
    assert set(bench.artifacts.older_than(-1000)) == before
    assert _versions(bench, name) == 1

    _due_now(bench, job_id)
    assert tasks.run_all(busy) == 1
    assert _job(bench, job_id).status == JobStatus.PUBLISHED
    assert _versions(bench, name) == 2
    assert _actions(bench, job_id).count("job.postponed") == 1


def test_storage_that_stays_full_poisons_the_job_after_growing_waits_and_a_retry_completes(
    bench: Bench, name: str
) -> None:
    factories.webhook(bench)
    request_id, job_id = _erase(bench, name, "finetune")
    full, waits = _with(bench, _failing("storage_full")), []
    for _ in range(bench.settings.max_attempts - 1):
        assert tasks.run_all(full) == 1
        until = _job(bench, job_id).not_before
        assert until is not None
        waits.append((until - now()).total_seconds())
        _due_now(bench, job_id)
    assert waits[1] > 3 * waits[0] > 90
    assert tasks.run_all(full) == 1
    job = _job(bench, job_id)
    assert (job.status, job.attempts) == (JobStatus.POISONED, bench.settings.max_attempts)
    assert job.error is not None
    assert job.error["code"] == "poisoned"
    assert "storage_full" in job.error["detail"]
    assert f"POST /v1/jobs/{job_id}/retry" in job.error["detail"]
    assert "job.poisoned" in _actions(bench, job_id)
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.FAILED
        told = [row.type for row in session.scalars(select(WebhookEvent)) if job_id in json.dumps(row.data)]
    assert "job.poisoned" in told

    with bench.database.writing() as session:
        jobs.retry(session, jobs.get(session, job_id))
    job = _job(bench, job_id)
    assert (job.status, job.attempts, job.error) == (JobStatus.QUEUED, 0, None)
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.IN_PROGRESS
    assert isinstance(jobs.claim_next(bench.database, owner="test", lease_seconds=30), Claim), "it can be claimed now"


def _timed_out(_: dict[str, Any]) -> dict[str, Any]:
    raise TimeLimitExceeded(5)


@pytest.mark.parametrize("method", ["finetune", "auto"])
def test_methods_past_the_time_limit_are_each_tried_once_and_the_last_says_what_to_do(
    bench: Bench, name: str, method: str
) -> None:
    request_id, job_id = _erase(bench, name, method)
    asked: list[str] = []

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        asked.append(order["method"])
        return _timed_out(order)

    assert tasks.run_all(_with(bench, answer)) == len(asked) == len(set(asked)) > 1
    assert _actions(bench, job_id).count("job.escalated") == len(asked) - 1
    job = _job(bench, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.FAILED, "time_limit_exceeded")
    assert "UNLEARN_JOB_TIME_LIMIT_SECONDS" in job.error["detail"]
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.FAILED


def test_training_past_the_time_limit_fails_at_once(bench: Bench, name: str) -> None:
    job_id = _train(bench, name)
    assert tasks.run_all(_with(bench, _timed_out)) == 1
    assert _job(bench, job_id).status == JobStatus.FAILED


@pytest.mark.parametrize("long", [False, True])
def test_a_stopped_child_is_ended_at_the_time_limit_however_long_its_order(long: bool) -> None:
    """An order longer than the pipe would else be written for ever."""
    runner = Runner(time_limit_seconds=0.5, idle_seconds=60)
    runner._start()
    child = runner._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    order = {"kind": "index", "filling": "x" * (1 << 22 if long else 1)}
    with pytest.raises(TimeLimitExceeded, match="within 0 seconds"):
        runner.run(order, progress=lambda *_: None, stop=lambda: False)
    assert child.poll() == -signal.SIGKILL
    assert runner._child is None


class Away(OperationalError):
    """What the driver raises while the server restarts."""

    def __init__(self) -> None:
        super().__init__("SELECT 1", {}, psycopg.OperationalError("connection refused"))


def test_a_result_waits_for_a_database_that_is_away_for_a_moment(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, asked, away = _train(bench, name), 0, 3
    record = outcomes.record

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return _trained(order)

    def refusing(*given: Any, **named: Any) -> None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise Away
        record(*given, **named)

    monkeypatch.setattr(outcomes, "record", refusing)
    assert tasks.run_all(_with(bench, answer)) == 1
    assert (_job(bench, job_id).status, asked, away) == (JobStatus.PUBLISHED, 1, -1)


def test_a_result_committed_although_the_answer_was_lost_is_published_once(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, record, told = _train(bench, name), outcomes.record, 0

    def cut_off(*given: Any, **named: Any) -> None:
        nonlocal told
        told += 1
        record(*given, **named)
        if told == 1:
            raise Away

    monkeypatch.setattr(outcomes, "record", cut_off)
    assert tasks.run_all(_with(bench, _trained)) == 1
    assert _job(bench, job_id).status == JobStatus.PUBLISHED
    assert _versions(bench, name) == 2
    assert _actions(bench, job_id).count("job.published") == 1


def test_patience_with_the_database_ends(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = _train(bench, name)

    def refusing(*_: Any, **__: Any) -> None:
        raise Away

    monkeypatch.setattr(outcomes, "record", refusing)
    assert tasks.run_all(_with(bench, _trained, outage_patience_seconds=0.0)) == 1
    job = _job(bench, job_id)
    assert job.error is not None
    assert (job.status, job.error["code"]) == (JobStatus.QUEUED, "database_unavailable")


def test_versions_that_cannot_be_deleted_keep_no_later_one_waiting(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(25):
        factories.version(bench, name, state=VersionState.RETIRED)
    with bench.database.reading() as session:
        retired = session.scalars(select(Version).where(Version.state == VersionState.RETIRED).order_by(Version.id))
        found = list(retired)
    stuck, last = {version.sha256 for version in found[:-1]}, found[-1].id
    purge = ArtifactStore.purge

    def refusing(self: ArtifactStore, digest: str) -> bool:
        if digest in stuck:
            raise PermissionError(errno.EACCES, "refused")
        return purge(self, digest)

    monkeypatch.setattr(ArtifactStore, "purge", refusing)
    for _ in range(2 * (1 + len(found) // 20)):
        retirement.purge(bench)
    with bench.database.reading() as session:
        states = {v.id: v.state for v in session.scalars(select(Version).where(Version.id.in_([v.id for v in found])))}
    assert states.pop(last) == VersionState.PURGED
    assert set(states.values()) == {VersionState.RETIRED}
    stuck.clear()
    for _ in range(2 * (1 + len(found) // 20)):
        retirement.purge(bench)
    with bench.database.reading() as session:
        left = session.scalars(select(Version.id).where(Version.state == VersionState.RETIRED)).all()
    assert left == []


def _shift(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock of the store, wherever it was imported."""

    def shifted() -> Any:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    for module in (types, audit, jobs, workers, duty_leases, requests, clock_skew):
        if hasattr(module, "now"):
            monkeypatch.setattr(module, "now", shifted)


def test_a_lease_from_before_the_clock_was_set_back_ends_after_one_more(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _train(bench, name)
    assert jobs.claim_next(bench.database, owner="dead", lease_seconds=30) is not None
    _shift(monkeypatch, -3600)
    with bench.database.writing() as session:
        jobs.cut_leases(session, lease_seconds=30)
    until = _job(bench, job_id).lease_until
    assert until is not None
    assert until <= types.now() + timedelta(seconds=30)
    _shift(monkeypatch, -3600 + 31)
    with bench.database.writing() as session:
        assert jobs.expired(session) == [job_id]


def test_a_job_put_off_before_the_clock_was_set_back_does_not_wait_for_it_to_catch_up(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _train(bench, name)
    full = _with(bench, _failing("storage_full"))
    assert tasks.run_all(full) == 1
    assert _job(bench, job_id).not_before is not None
    _shift(monkeypatch, -86_400)
    with bench.database.writing() as session:
        assert job_id in jobs.to_ring(session, older_than_seconds=10)
    claim = jobs.claim_next(bench.database, owner="living", lease_seconds=30)
    assert claim is not None
    assert claim.job_id == job_id


def test_a_clock_that_jumps_frees_no_lease_of_a_living_worker(bench: Bench, name: str) -> None:
    """Forward, every lease looks run out; for one lease length nobody is taken for dead."""
    steady, wall = [1000.0], [5000.0]
    clock = WorkerClock(wall=lambda: wall[0], steady=lambda: steady[0])
    jumped = replace(bench, clock=clock)
    job_id = _train(bench, name)
    assert jobs.claim_next(bench.database, owner="living", lease_seconds=30) is not None
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now() - timedelta(hours=1)))
    wall[0] += 3600
    sweeper.sweep(jumped, lambda _: None)
    assert _job(bench, job_id).status == JobStatus.RUNNING
    steady[0] += 31
    wall[0] += 31
    sweeper.sweep(jumped, lambda _: None)
    job = _job(bench, job_id)
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 1)


def test_times_in_the_log_do_not_go_back_with_the_clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for shift in (0, -3600, 60):
        _shift(monkeypatch, shift)
        with bench.database.writing() as session:
            audit.record(session, "test.appended", subject="clock", payload={"shift": shift})
    with bench.database.reading() as session:
        times = list(session.scalars(select(AuditEntry.time).order_by(AuditEntry.seq)))
    assert times == sorted(times)


def test_a_bell_a_sign_of_life_and_a_duty_from_the_future_count_for_nothing(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _train(bench, name)
    with bench.database.writing() as session:
        workers.seen(session, "dead")
        assert duty_leases.take(session, "test", owner="dead", seconds=30)
    _shift(monkeypatch, -3600)
    with bench.database.writing() as session:
        assert job_id in jobs.to_ring(session, older_than_seconds=10)
        assert workers.alive(session, within_seconds=60) == 0
        assert duty_leases.take(session, "test", owner="living", seconds=30)
        session.delete(session.get_one(DutyLease, "test"))
        session.delete(session.get_one(Worker, "dead"))


def test_a_worker_whose_clock_is_off_takes_no_job_and_frees_none(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _train(bench, name)
    off = replace(_with(bench, _trained), clock=WorkerClock(limit=5))
    if bench.database.engine.dialect.name == "sqlite":
        with bench.database.reading() as session:
            assert clock_skew.seconds(session) == 0.0
        monkeypatch.setattr(clock_skew, "seconds", lambda _: -60.0)
    else:
        _shift(monkeypatch, 60)
    sweeper.sweep(off, lambda _: None)
    assert off.clock.is_off
    assert off.clock.told()["seconds"] == pytest.approx(-60, abs=2)
    assert tasks.run_all(off) == 0
    assert _job(bench, job_id).status == JobStatus.QUEUED
    monkeypatch.undo()
    sweeper.sweep(off, lambda _: None)
    assert tasks.run_all(off) == 1


@pytest.mark.parametrize("ahead", [4, -4])
def test_a_lease_shorter_than_the_skew_that_is_let_pass_is_judged_by_the_database_s_clock(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    job_id = _train(bench, name)
    off = replace(_with(bench, _trained, lease_seconds=3), clock=WorkerClock(limit=5))
    if bench.database.engine.dialect.name == "sqlite":
        monkeypatch.setattr(clock_skew, "seconds", lambda _: -float(ahead))
    _shift(monkeypatch, ahead)
    sweeper.sign(off)
    assert tasks._next(off) is not None
    until, real = _job(bench, job_id).lease_until, datetime.now(UTC)
    assert until is not None
    assert timedelta(0) < until - real <= timedelta(seconds=3.5)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=real + timedelta(seconds=3)))
    sweeper.sweep(off, lambda _: None)
    assert _job(bench, job_id).status == JobStatus.RUNNING


def test_a_worker_whose_clock_was_set_back_keeps_the_lease_of_what_it_has_begun(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = _train(bench, name)
    claim = jobs.claim_next(bench.database, owner="late", lease_seconds=30)
    assert claim is not None
    before, real = _job(bench, job_id).lease_until, now()
    if bench.database.engine.dialect.name == "sqlite":
        monkeypatch.setattr(clock_skew, "seconds", lambda _: 600.0)
    _shift(monkeypatch, -600)
    with Heartbeat(bench, claim) as beat:
        beat.progress("train", 1, 2)
        end = time.monotonic() + 30
        while (until := _job(bench, job_id).lease_until) == before:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert until is not None
    assert until > real + timedelta(seconds=20), "workers whose clocks are right do not take it for lost"


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
    _train(bench, name)
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


def test_a_window_of_a_rate_limit_does_not_last_longer_because_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    from limits import parse

    from service.rate_limits import Meter

    async def spend() -> list[bool]:
        meter, limit, over = Meter(), parse("2/minute"), []
        real = time.time
        for shift in (0, 0, 0, -3600):
            monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
            over.append((await meter.spend("reads", limit, "key")).is_over)
        monkeypatch.undo()
        return over

    assert asyncio.run(spend()) == [False, False, True, False]
