"""Models that held jobs came to: kept for a person to approve, and gone when nobody can any more."""

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.lifecycle import JobStatus
from service.store import residuals
from service.store.residuals import Artefact, Entry, State
from service.store.tables import Job, JobRequest, Version


def artefact_of(job: Job) -> Artefact:
    """Return the job's candidate as the ledger names it."""
    return Artefact(kind=residuals.CANDIDATE, name=f"job/{job.id}/candidate", sha256=job.candidate_sha256)


def keep(session: Session, job: Job, *, sha256: str, size: int) -> None:
    """Have the job keep these weights; they may know what its requests are to forget."""
    job.candidate_sha256, job.candidate_size = sha256, size
    asked = session.scalars(select(JobRequest.request_id).where(JobRequest.job_id == job.id)).all()
    entry = Entry(action="job.held", kind="job", ref=job.id)
    residuals.note(session, asked, artefact_of(job), state=State.HELD, entry=entry)


def drop(session: Session, job: Job, *, action: str) -> None:
    """Have the job give up its candidate, if it has one; a sweep deletes the bytes. ``action``: the job's entry."""
    if job.candidate_sha256 is not None:
        entry = Entry(action=action, kind="job", ref=job.id)
        residuals.advance(session, artefact_of(job), state=State.DROPPED, entry=entry)
        forget(job)


def forget(job: Job) -> None:
    """Name no candidate any more; for whoever sees to the bytes and to the ledger."""
    job.candidate_sha256, job.candidate_size = None, None


def published(session: Session, job: Job) -> None:
    """Say that the candidate has become a version, which a person answers for."""
    entry = Entry(action="job.published", kind="job", ref=job.id)
    residuals.advance(session, artefact_of(job), state=State.PUBLISHED, entry=entry)
    forget(job)


def made_from(session: Session, version: Version) -> list[Job]:
    """Return the held jobs whose candidate came from the version, locked: it can no longer be published for it."""
    query = select(Job).where(*_made_from(version)).order_by(Job.id).with_for_update()
    return list(session.scalars(query, execution_options={"populate_existing": True}))


def digests_made_from(session: Session, version: Version) -> list[str]:
    """Return the digests of those candidates, without locking the jobs."""
    return [str(sha256) for sha256 in session.scalars(select(Job.candidate_sha256).where(*_made_from(version)))]


def _made_from(version: Version) -> tuple[ColumnElement[bool], ...]:
    return Job.parent_id == version.id, Job.candidate_sha256.is_not(None)


def drop_of_cancelled(session: Session) -> None:
    """Give up the candidates of jobs that nobody waits for any more."""
    query = select(Job).where(Job.candidate_sha256.is_not(None), Job.status == JobStatus.CANCELLED).order_by(Job.id)
    for job in session.scalars(query.with_for_update(skip_locked=True)).all():
        drop(session, job, action="job.cancelled")
