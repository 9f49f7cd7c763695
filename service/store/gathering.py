"""Requests gather in jobs: which a job works for, how urgent that makes it, and which a new request may join."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Select, String, bindparam, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from service.lifecycle import JobKind, JobStatus
from service.store import samples
from service.store.tables import DeletionRequest, Job, JobRequest, table_of

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
        )
        .order_by(Job.id.desc())
        .with_for_update(skip_locked=True)
    )
