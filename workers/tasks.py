"""What the bell sets off: claim, have the child do the work, record the outcome. Thin, and torch-free.

One place decides how an attempt ends, and every outcome reaches it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from service import faults
from service.faults import Step
from service.lifecycle import JobStatus
from service.store import job_phase, jobs, replays, requests
from service.store.jobs import Claim, LeaseLost
from service.store.tables import Job
from workers import attempt_end, caches, orders, outcomes, publish, publish_prepared
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.ladder import next_rung
from workers.orders import Place, Prepared
from workers.reexecution import Unconfirmed
from workers.runner import ChildFailed, ChildLost

MOST_REQUESTS_LOGGED = 20
log = structlog.get_logger()
__all__ = ["Bench", "attempt", "run_all"]


def run_all(bench: Bench) -> int:
    """Do every job that may run now, most urgent first; return how many were claimed."""
    with bench.database.reading() as session:
        if replays.pending(session) is not None:
            return 0  # what was erased after the backup could be trained on
    count = 0
    while not bench.stopping.is_set():
        claim = jobs.claim_next(bench.database, owner=bench.owner, lease_seconds=bench.settings.lease_seconds)
        if claim is None:
            return count
        count += 1
        faults.reach(Step.JOB_CLAIMED)
        ids = {"job_id": claim.job_id, "fence": claim.fence, "kind": claim.kind, "requests": _requests(bench, claim)}
        with structlog.contextvars.bound_contextvars(**ids):
            attempt(bench, claim)
    return count


def _requests(bench: Bench, claim: Claim) -> list[str]:
    """Return the requests that the job is for, to be on its log lines; of a large group the first."""
    with bench.database.reading() as session:
        return [request.id for request in requests.of_job(session, claim.job_id)][:MOST_REQUESTS_LOGGED]


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
        log.error("attempt.failed", code=error.error.get("code"), detail=error.error.get("detail"))
        held = error.error.get("code") == "utility_guard"
        _record_failure(bench, claim, error.error, JobStatus.HELD if held else JobStatus.FAILED)
    except ChildLost as error:
        if bench.stopping.is_set():
            log.info("attempt.handed_back")
            _hand_back(bench, claim)
            return
        log.warning("attempt.lost", reason=str(error))
        _give_back(bench, claim, str(error))
    except orders.NoMethodLeft as error:
        log.warning("attempt.no_method_left")
        _record_failure(bench, claim, {"code": "no_method_left", "detail": str(error)}, JobStatus.HELD)
    except Unconfirmed as error:
        log.error("attempt.unconfirmed", code=error.error["code"])
        _record_failure(bench, claim, error.error, JobStatus.HELD)
    except publish_prepared.TrainingSetChanged as error:
        log.warning("attempt.lost", reason=type(error).__name__)
        _give_back(bench, claim, "the training set changed")
    except Exception as error:  # noqa: BLE001 - the task boundary: an unforeseen fault is recorded, not lost
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
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        prepared = orders.prepare(session, job, place)
    with bench.database.writing() as session:
        if prepared.order is not None and prepared.order.keys() & {"dataset", "cache"}:
            # Before the child decodes them: whoever dies in between leaves no cache that nobody knows of.
            caches.note(session, caches.place_of(bench.settings.data_dir), job.dataset_id)
        approved = job_phase.begin_attempt(session, claim, rung=prepared.rung_name, parent_id=prepared.parent_id)
        if prepared.order is None:
            publish.nothing_left(session, claim, bench.suppression_key)
            return
        if approved is not None:
            publish.approved(session, claim, prepared, bench.suppression_key)
            return
    run = partial(bench.runner.run, progress=beat.progress, stop=lambda: beat.lost.is_set() or bench.stopping.is_set())
    try:
        result = run(prepared.order)
    except ChildFailed as error:
        if not _climb_after_failure(bench, claim, prepared, error.error):
            raise
        return
    outcomes.record(bench, claim, prepared, result, folder, run=run)


_OF_THE_METHOD = ("unlearning_failed", "utility_guard", "training_failed", "out_of_memory", "internal_error")
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
    try:
        with bench.database.writing() as session:
            attempt_end.failed(session, claim, error, bench.suppression_key, status=status)
    except LeaseLost:
        log.warning("attempt.lease_lost")


def _hand_back(bench: Bench, claim: Claim) -> None:
    try:
        with bench.database.writing() as session:
            job_phase.hand_back(session, claim, reason="the worker was asked to end")
    except LeaseLost:
        log.warning("attempt.lease_lost")


def _give_back(bench: Bench, claim: Claim, reason: str) -> None:
    try:
        with bench.database.writing() as session:
            job = jobs.hold_lease(session, claim)
            jobs.give_back(session, job, max_attempts=bench.settings.max_attempts, reason=reason[:200])
            if job.status == JobStatus.POISONED:
                attempt_end.give_up(session, job, job.error or {}, bench.suppression_key, status=None)
    except LeaseLost:
        log.warning("attempt.lease_lost")
