"""A clock that jumps, is set back or is off frees no living lease and stops no work for ever."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service.lifecycle import JobStatus
from service.store import audit, clock_skew, duty_leases, jobs, requests, types, workers
from service.store.tables import AuditEntry, DutyLease, Job, Worker
from service.store.types import now
from tests.integration.lacks.stand_ins import answering, failing, queue_training, read_job, trained
from workers import sweeper, tasks
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.worker_clock import WorkerClock


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
    job_id = queue_training(bench, name)
    assert jobs.claim_next(bench.database, owner="dead", lease_seconds=30) is not None
    _shift(monkeypatch, -3600)
    with bench.database.writing() as session:
        jobs.cut_leases(session, lease_seconds=30)
    until = read_job(bench, job_id).lease_until
    assert until is not None
    assert until <= types.now() + timedelta(seconds=30)
    _shift(monkeypatch, -3600 + 31)
    with bench.database.writing() as session:
        assert jobs.expired(session) == [job_id]


def test_a_job_put_off_before_the_clock_was_set_back_does_not_wait_for_it_to_catch_up(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue_training(bench, name)
    full = answering(bench, failing("storage_full"))
    assert tasks.run_all(full) == 1
    assert read_job(bench, job_id).not_before is not None
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
    job_id = queue_training(bench, name)
    assert jobs.claim_next(bench.database, owner="living", lease_seconds=30) is not None
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now() - timedelta(hours=1)))
    wall[0] += 3600
    sweeper.sweep(jumped, lambda _: None)
    assert read_job(bench, job_id).status == JobStatus.RUNNING
    steady[0] += 31
    wall[0] += 31
    sweeper.sweep(jumped, lambda _: None)
    job = read_job(bench, job_id)
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
    job_id = queue_training(bench, name)
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
    job_id = queue_training(bench, name)
    off = replace(answering(bench, trained), clock=WorkerClock(limit=5))
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
    assert read_job(bench, job_id).status == JobStatus.QUEUED
    monkeypatch.undo()
    sweeper.sweep(off, lambda _: None)
    assert tasks.run_all(off) == 1


@pytest.mark.parametrize("ahead", [4, -4])
def test_a_lease_shorter_than_the_skew_that_is_let_pass_is_judged_by_the_database_s_clock(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    job_id = queue_training(bench, name)
    off = replace(answering(bench, trained, lease_seconds=3), clock=WorkerClock(limit=5))
    if bench.database.engine.dialect.name == "sqlite":
        monkeypatch.setattr(clock_skew, "seconds", lambda _: -float(ahead))
    _shift(monkeypatch, ahead)
    sweeper.sign(off)
    assert tasks._next(off) is not None
    until, real = read_job(bench, job_id).lease_until, datetime.now(UTC)
    assert until is not None
    assert timedelta(0) < until - real <= timedelta(seconds=3.5)
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=real + timedelta(seconds=3)))
    sweeper.sweep(off, lambda _: None)
    assert read_job(bench, job_id).status == JobStatus.RUNNING


def test_a_worker_whose_clock_was_set_back_keeps_the_lease_of_what_it_has_begun(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = queue_training(bench, name)
    claim = jobs.claim_next(bench.database, owner="late", lease_seconds=30)
    assert claim is not None
    before, real = read_job(bench, job_id).lease_until, now()
    if bench.database.engine.dialect.name == "sqlite":
        monkeypatch.setattr(clock_skew, "seconds", lambda _: 600.0)
    _shift(monkeypatch, -600)
    with Heartbeat(bench, claim) as beat:
        beat.progress("train", 1, 2)
        end = time.monotonic() + 30
        while (until := read_job(bench, job_id).lease_until) == before:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert until is not None
    assert until > real + timedelta(seconds=20), "workers whose clocks are right do not take it for lost"


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
