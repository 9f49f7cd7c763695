"""Requests gather in jobs: which a job works for, how urgent that makes it, and which a new request may join."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Select, String, bindparam, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from service.catalogue.bounds import WIDEST_BAND, band_by_size
from service.lifecycle import JobKind, JobStatus
from service.store import samples
from service.store.tables import DeletionRequest, Job, JobRequest, RequestSample, table_of
from service.store.types import now

_JOB, _REQUEST = bindparam("job", type_=String), bindparam("request", type_=String)
_LINK = insert(table_of(JobRequest)).from_select(
    ["job_id", "request_id"],
    select(_JOB, _REQUEST).where(~exists().where(JobRequest.job_id == _JOB, JobRequest.request_id == _REQUEST)),
)


def link(session: Session, job: Job, request: DeletionRequest) -> None:
    """Make the job work for the request too; the earliest due date of its requests is the job's."""
    session.execute(_LINK, {"job": job.id, "request": request.id})
    if request.due_at is not None and (job.due_at is None or request.due_at < job.due_at):
        job.due_at = request.due_at


def wait_until(request: DeletionRequest, policy: Mapping[str, Any], known: int) -> datetime | None:
    """Return until when a job for so few samples waits for more requests; None where the policy does not wait."""
    if policy["small_sets"] != "gather" or request.due_at is None or is_enough(known):
        return None
    moment = now()
    return moment + max(timedelta(), request.due_at - moment) * float(policy["gather_share"])


def stop_waiting_if_enough(session: Session, job: Job) -> None:
    """Let the job begin once its requests together name enough samples to test membership."""
    if job.not_before is None:
        return
    session.flush()
    named = (
        select(func.count(func.distinct(RequestSample.sample_id)))
        .join(JobRequest, JobRequest.request_id == RequestSample.request_id)
        .where(JobRequest.job_id == job.id)
    )
    if is_enough(session.scalar(named) or 0):
        job.not_before = None


def is_enough(samples: int) -> bool:
    """Say whether membership can be tested on so many forgotten samples against as many controls."""
    return band_by_size(samples, samples) <= WIDEST_BAND


def unlink(session: Session, job: Job, request: DeletionRequest) -> None:
    """Make the job no longer work for the request; it is as urgent as those that remain."""
    session.execute(delete(JobRequest).where(JobRequest.job_id == job.id, JobRequest.request_id == request.id))
    job.due_at = session.scalar(
        select(func.min(DeletionRequest.due_at))
        .join(JobRequest, JobRequest.request_id == DeletionRequest.id)
        .where(JobRequest.job_id == job.id)
    )


def queued(session: Session, request: DeletionRequest, model_ids: Sequence[str]) -> dict[tuple[str, str], Job]:
    """Return the queued jobs that nobody has claimed and that do what the request asks, by model and policy digest."""
    asked = {
        "purpose": request.purpose,
        "method": request.method,
        "listed": samples.packed(session, model_ids),
    }
    candidates = session.scalars(_queued(samples.dialect_of(session)), asked)
    # The oldest of a model stands last, and stays.
    return {
        (str(job.model_id), str(job.policy_digest)): job
        for job in candidates
        if (job.method_options or {}) == request.method_options
    }


@cache
def _queued(dialect: str) -> Select[Job]:
    return (
        select(Job)
        .where(
            Job.kind == JobKind.ERASE,
            Job.status == JobStatus.QUEUED,
            samples.among(dialect, Job.model_id, String),
            Job.purpose == bindparam("purpose"),
            Job.method == bindparam("method"),
            Job.attempts == 0,
            Job.rung.is_(None),
        )
        .order_by(Job.id.desc())
        .with_for_update(skip_locked=True)
    )
