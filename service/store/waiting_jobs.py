"""Which stuck jobs wait for a person: those that hold up a request, a trim, or a preparation nobody has asked for anew.

What a stuck preparation of a version holds up is judged name by name, here for the policies' sweep too.

An index, a training or a check of weights that failed holds nobody up: its caller is told, and asks anew if need be.
"""

from sqlalchemy import ColumnElement, String, and_, cast, exists, or_, select
from sqlalchemy.orm import Session, aliased

from service.catalogue.preparations import PREPARATIONS
from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind, JobStatus, VersionState
from service.store.tables import DeletionRequest, Job, JobRequest, PreparedFile, Version

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
    of_version = and_(circulates, or_(*map(holds_up, PREPARATIONS)))
    return and_(Job.status.in_(sorted(JOB_STUCK)), or_(of_open_request, trim, references, of_version))


def holds_up(name: str) -> ColumnElement[bool]:
    """Say of a job that it is stuck and was to prepare this of its version, which nobody made or asked for since."""
    newer = aliased(Job)
    stuck = and_(Job.kind == JobKind.PREPARE_VERSION, Job.status.in_(sorted(JOB_STUCK)), _is_to_make(Job, name))
    there = exists().where(PreparedFile.version_id == Job.version_id, PreparedFile.name == name)
    anew = exists().where(newer.version_id == Job.version_id, _asked_after(newer), _is_to_make(newer, name))
    return and_(stuck, ~there, ~anew)


def _asked_for_anew() -> ColumnElement[bool]:
    newer = aliased(Job)
    return exists().where(newer.model_id == Job.model_id, _asked_after(newer))


def _asked_after(newer: type[Job]) -> ColumnElement[bool]:
    return and_(newer.kind == Job.kind, newer.id > Job.id, newer.status != JobStatus.CANCELLED)


def _is_to_make(job: type[Job], name: str) -> ColumnElement[bool]:
    # As text, which both databases can search; the quotes keep a name from being found in a longer one.
    return cast(job.method_options, String).contains(f'"{name}"', autoescape=True)


def first(session: Session, *, limit: int) -> list[Job]:
    """Return the jobs that have waited for a person for longest."""
    return list(session.scalars(select(Job).where(wait_for_a_person()).order_by(Job.id).limit(limit)))
