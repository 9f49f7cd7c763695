"""Requests gather in jobs: which a job works for, how urgent that makes it, and which a new request may join."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Select, String, bindparam, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from service.catalogue.bounds import WIDEST_BAND, band_by_size
from service.catalogue.policy import surest_within_seconds, tests_membership
from service.lifecycle import JobKind, JobStatus
from service.store import controls, samples, versions
from service.store.tables import DeletionRequest, Job, JobRequest, RequestSample, Version, table_of
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


def wait_until(
    session: Session, request: DeletionRequest, policy: Mapping[str, Any], version: Version, known: Collection[int]
) -> datetime | None:
    """Return until when a job for so few samples waits for more requests; None where it begins at once.

    ``known``: those of the request's samples that the version was trained on. The wait ends before the time that the
    surest method needs.
    """
    if policy["small_sets"] != "gather" or request.due_at is None or not tests_membership(policy):
        return None
    if is_enough(controls.pairs(session, request.dataset_id, sorted(known))):
        return None
    moment, needed = now(), surest_within_seconds(policy["surest_within_hours"] * 3600, version.training_seconds)
    share = (request.due_at - moment) * float(policy["gather_share"])
    end = min(moment + share, request.due_at - timedelta(seconds=needed))
    return end if end > moment else None


def join(
    session: Session,
    job: Job,
    request: DeletionRequest,
    *,
    policy: Mapping[str, Any],
    version: Version,
    known: Collection[int],
) -> None:
    """Make a queued job work for the request too; it waits no longer than the request would by itself.

    Nor does it once its requests together name enough samples to test membership.
    """
    link(session, job, request)
    if job.not_before is None:
        return
    alone = wait_until(session, request, policy, version, known)
    job.not_before = None if alone is None or _has_enough(session, job) else min(job.not_before, alone)


def _has_enough(session: Session, job: Job) -> bool:
    session.flush()
    named = (
        select(RequestSample.sample_id)
        .join(JobRequest, JobRequest.request_id == RequestSample.request_id)
        .where(JobRequest.job_id == job.id)
        .distinct()
    )
    found = versions.newest_trained_on(session, str(job.model_id), list(session.scalars(named)))
    return found is not None and is_enough(controls.pairs(session, job.dataset_id, [key for key, _ in found[1]]))


def is_enough(pairs: int) -> bool:
    """Say whether membership can be tested on so many forgotten samples, each against a control."""
    return band_by_size(pairs, pairs) <= WIDEST_BAND


def unlink(session: Session, job: Job, request: DeletionRequest) -> None:
    """Make the job no longer work for the request; it is as urgent as those that remain."""
    session.execute(delete(JobRequest).where(JobRequest.job_id == job.id, JobRequest.request_id == request.id))
    set_due(session, job)


def set_due(session: Session, job: Job) -> None:
    """Make the earliest due date of its requests the job's."""
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
            Job.on_hold.is_(False),
        )
        .order_by(Job.id.desc())
        .with_for_update(skip_locked=True)
    )
