"""What the bell sets off: claim, have the child do the work, record the outcome. Thin, and torch-free.

One place decides how an attempt ends, and every outcome reaches it.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import faults, heap, outages
from service.faults import Step
from service.lifecycle import JobStatus
from service.store import digests, job_phase, jobs, replays, requests
from service.store.jobs import Claim, LeaseLost
from service.store.tables import Job
from workers import (
    attempt_end,
    caches,
    erasure_orders,
    orders,
    outcomes,
    own_store,
    publish,
    publish_prepared,
    resumption,
)
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.ladder import next_rung
from workers.order_parts import Place, Prepared
from workers.patience import patiently
from workers.reexecution import Unconfirmed
from workers.resumption import Resumption
from workers.runner import TIME_LIMIT_EXCEEDED, ChildFailed, ChildLost, Drain

MOST_REQUESTS_LOGGED = 20
log = structlog.get_logger()
__all__ = ["Bench", "attempt", "run_all"]


def run_all(bench: Bench) -> int:
    """Do every job that may run now, most urgent first; return how many were claimed."""
    if _waits_for_replay(bench):
        return 0
    count = 0
    while not bench.stopping.is_set():
        claim = _next(bench)
        if claim is None:
            return count
        count += 1
        faults.reach(Step.JOB_CLAIMED)
        ids = {
            "job_id": claim.job_id,
            "fence": claim.fence,
            "kind": claim.kind,
            "requests": _requests(bench, claim),
        }
        with structlog.contextvars.bound_contextvars(**ids):
            attempt(bench, claim)
        resumption.clear(bench)
        heap.give_back()  # a thousand requests settled at once leave tens of megabytes
    return count


def _waits_for_replay(bench: Bench) -> bool:
    """Say whether what was erased after the backup could be trained on, as far as it can be known now."""
    try:
        with bench.database.reading() as session:
            return replays.pending(session) is not None
    except SQLAlchemyError as error:
        return _refused(error)


def _requests(bench: Bench, claim: Claim) -> list[str]:
    """Return the requests that the job is for, to be on its log lines; of a large group the first."""

    def look() -> list[str]:
        with bench.database.reading() as session:
            return [request.id for request in requests.of_job(session, claim.job_id)][:MOST_REQUESTS_LOGGED]

    try:
        return patiently(bench, look)
    except SQLAlchemyError:
        return []  # the attempt meets what is wrong, and comes to an end that is recorded


def _refused(error: SQLAlchemyError) -> bool:
    """Tell that nothing can be claimed now, or raise what is no outage; the next sweep rings again."""
    lack = outages.lacking(error)
    if lack is None:
        raise error
    log.warning("claim.refused", code=lack.code)
    return True


def _next(bench: Bench) -> Claim | None:
    if bench.clock.is_off:
        log.error("clock.skewed", **bench.clock.told())
        return None
    seconds = bench.settings.lease_seconds + bench.clock.skew_seconds
    try:
        if not own_store.is_ours(bench):
            return None
        return jobs.claim_next(bench.database, owner=bench.owner, lease_seconds=seconds)
    except SQLAlchemyError as error:
        _refused(error)
        return None


def attempt(bench: Bench, claim: Claim) -> None:
    """Carry out one claim to whatever end it comes to."""
    log.info("attempt.started")
    try:
        with _scratch(bench, claim) as folder, Heartbeat(bench, claim) as beat:
            _work(bench, claim, folder, beat)
        log.info("attempt.finished")
    except LeaseLost:
        log.warning("attempt.lease_lost")
    except ChildFailed as error:
        _failed(bench, claim, error.error)
    except ChildLost as error:
        if bench.stopping.is_set():
            log.info("attempt.handed_back")
            _hand_back(bench, claim)
            return
        log.warning("attempt.lost", reason=str(error))
        _give_back(bench, claim, str(error))
    except erasure_orders.NoMethodLeft as error:
        log.warning("attempt.no_method_left")
        _record_failure(bench, claim, {"code": "no_method_left", "detail": str(error)}, JobStatus.HELD)
    except Unconfirmed as error:
        log.error("attempt.unconfirmed", code=error.error["code"])
        _record_failure(bench, claim, error.error, JobStatus.HELD)
    except publish_prepared.TrainingSetChanged as error:
        log.warning("attempt.lost", reason=type(error).__name__)
        _give_back(bench, claim, "the training set changed")
    except Exception as error:  # noqa: BLE001 - the task boundary: an unforeseen fault is recorded, not lost
        _broken(bench, claim, error)


def _failed(bench: Bench, claim: Claim, error: dict[str, Any]) -> None:
    """Record what the child said of its failure, or wait where it is none of the work's own."""
    code = error.get("code")
    if code in outages.PASSING:
        _postpone(bench, claim, error)
        return
    log.error("attempt.failed", code=code, detail=error.get("detail"))
    _record_failure(bench, claim, error, JobStatus.HELD if code == "utility_guard" else JobStatus.FAILED)


def _broken(bench: Bench, claim: Claim, error: Exception) -> None:
    """Wait for what is away or full; give the job back after what nobody foresaw."""
    if (lack := outages.lacking(error)) is not None:
        _postpone(bench, claim, {"code": lack.code, "detail": outages.of_a_job(lack)})
        return
    # Type and place only: a database error quotes its parameters.
    log.error("attempt.broken", error=type(error).__name__, where=_where(error))
    _give_back(bench, claim, f"internal error ({type(error).__name__})")


@contextmanager
def _scratch(bench: Bench, claim: Claim) -> Iterator[Path]:
    """Yield a folder named by the claim, so that one left by a killed worker can be told from one in use."""
    folder = bench.settings.data_dir / "tmp" / f"{claim.job_id}-{claim.fence}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


def _work(bench: Bench, claim: Claim, folder: Path, beat: Heartbeat) -> None:
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=folder.resolve())
    seen = patiently(bench, lambda: resumption.looked_at(bench, claim))
    prepared = patiently(bench, lambda: _prepare(bench, claim, place))
    ended = patiently(bench, lambda: _ended_at_once(bench, claim, prepared))
    order = prepared.order
    if ended or order is None:
        return
    kept = patiently(bench, lambda: Resumption(bench, claim, order, seen=seen, beat=beat))
    run = partial(
        bench.runner.run,
        progress=beat.progress,
        stop=lambda: beat.lost.is_set() or bench.ending.is_set(),
        drain=Drain(asked=bench.stopping.is_set, seconds=bench.settings.worker_drain_seconds),
        told=kept.told,
    )
    try:
        result = run(kept.order)
    except ChildFailed as error:
        if not patiently(bench, partial(_climb_after_failure, bench, claim, prepared, error.error)):
            raise
    else:
        # All of it is done again where the database was away: what was stored is found, what was committed is refused.
        patiently(bench, lambda: outcomes.record(bench, claim, prepared, result, folder, run=run))
    kept.over()


def _prepare(bench: Bench, claim: Claim, place: Place) -> Prepared:
    with bench.database.reading() as session:
        return orders.prepare(session, session.get_one(Job, claim.job_id), place)


def _ended_at_once(bench: Bench, claim: Claim, prepared: Prepared) -> bool:
    """Begin the attempt; say whether it ended without any work."""
    with bench.database.writing() as session:
        job = session.get_one(Job, claim.job_id)
        if job.candidate_sha256 is not None:
            digests.hold(session, job.candidate_sha256)
        approved = job_phase.begin_attempt(session, claim, rung=prepared.rung_name, parent_id=prepared.parent_id)
        if prepared.order is None:
            publish.nothing_left(session, claim, bench.suppression_key)
        elif approved is not None:
            publish.approved(session, claim, prepared, bench.suppression_key)
        elif prepared.order.keys() & {"dataset", "cache"}:
            # Before the child decodes them: whoever dies in between leaves no cache that nobody knows of.
            caches.note(session, caches.place_of(bench.settings.data_dir), job.dataset_id)
        return prepared.order is None or approved is not None


_OF_THE_METHOD = (
    "unlearning_failed",
    "utility_guard",
    "training_failed",
    "out_of_memory",
    TIME_LIMIT_EXCEEDED,
    "internal_error",
)
"""Failures that another method may not have. What is wrong with the data or the weights would meet every one."""


def _climb_after_failure(bench: Bench, claim: Claim, prepared: Prepared, error: dict[str, Any]) -> bool:
    """Go on to the next method after one that found no model to return, or broke; False if there is none."""
    if prepared.situation is None or error.get("code") not in _OF_THE_METHOD:
        return False
    rung = next_rung(prepared.tried)
    if rung.method is None:
        return False
    with bench.database.writing() as session:
        publish.climbed(session, claim, prepared, rung, error=error)
    return True


def _record_failure(bench: Bench, claim: Claim, error: dict[str, Any], status: JobStatus) -> None:
    def act(session: Session) -> None:
        attempt_end.failed(session, claim, error, bench.suppression_key, status=status)

    _under_the_fence(bench, act)


def _under_the_fence(bench: Bench, act: Callable[[Session], None]) -> None:
    def write() -> None:
        with bench.database.writing() as session:
            act(session)

    try:
        patiently(bench, write)
    except LeaseLost:
        log.warning("attempt.lease_lost")
    except SQLAlchemyError as error:
        # The database stayed away: the lease runs out, and whoever sweeps then gives the job back.
        log.error("attempt.end_not_recorded", error=type(error).__name__)


def _postpone(bench: Bench, claim: Claim, error: dict[str, Any]) -> None:
    """Have the job wait for what is full or away."""
    log.error("attempt.postponed", code=error["code"], detail=error["detail"])
    settings = bench.settings

    def act(session: Session) -> None:
        job = job_phase.postpone(
            session,
            claim,
            {"code": error["code"], "detail": error["detail"]},
            max_attempts=settings.max_attempts,
            first_wait_seconds=settings.storage_retry_seconds,
        )
        _tell_if_poisoned(bench, session, job)

    _under_the_fence(bench, act)


def _tell_if_poisoned(bench: Bench, session: Session, job: Job) -> None:
    if job.status == JobStatus.POISONED:
        attempt_end.give_up(session, job, job.error or {}, bench.suppression_key, status=None)


def _hand_back(bench: Bench, claim: Claim) -> None:
    _under_the_fence(bench, lambda session: job_phase.hand_back(session, claim, reason="the worker was asked to end"))


def _give_back(bench: Bench, claim: Claim, reason: str) -> None:
    def act(session: Session) -> None:
        job = jobs.hold_lease(session, claim)
        jobs.give_back(session, job, max_attempts=bench.settings.max_attempts, reason=reason[:200])
        _tell_if_poisoned(bench, session, job)

    _under_the_fence(bench, act)
