"""Which stuck jobs wait for a person: those that hold up a request, a trim, or a preparation nobody has asked for anew.

An index, a training or a check of weights that failed holds nobody up: its caller is told, and asks anew if need be.
"""

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind, VersionState
from service.store.tables import DeletionRequest, Job, JobRequest, Version

_IN_CIRCULATION = (VersionState.ACTIVE, VersionState.QUARANTINED)


def wait_for_a_person() -> ColumnElement[bool]:
    """Say of a job that somebody has to retry or approve it before what waits for it can go on."""
    of_open_request = exists().where(
        JobRequest.job_id == Job.id,
        DeletionRequest.id == JobRequest.request_id,
        DeletionRequest.status.in_(sorted(REQUEST_OPEN)),
    )
    # No other trim is asked for while one is stuck, and retention waits.
    trim = Job.kind == JobKind.TRIM
    references = and_(Job.kind == JobKind.PREPARE, ~_asked_for_anew())
    circulates = exists().where(Version.id == Job.version_id, Version.state.in_(_IN_CIRCULATION))
    of_version = and_(Job.kind == JobKind.PREPARE_VERSION, circulates, ~_asked_for_anew())
    return and_(Job.status.in_(sorted(JOB_STUCK)), or_(of_open_request, trim, references, of_version))


def _asked_for_anew() -> ColumnElement[bool]:
    newer = aliased(Job)
    same_version = newer.version_id.is_not_distinct_from(Job.version_id)
    return exists().where(newer.model_id == Job.model_id, newer.kind == Job.kind, same_version, newer.id > Job.id)


def first(session: Session, *, limit: int) -> list[Job]:
    """Return the jobs that have waited for a person for longest."""
    return list(session.scalars(select(Job).where(wait_for_a_person()).order_by(Job.id).limit(limit)))
