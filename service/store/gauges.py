"""What an operator watches: open requests, the queue, the log. Each figure is one query that an index answers."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind, JobStatus, RequestStatus
from service.store import workers
from service.store.tables import AuditCheckpoint, AuditHead, DeletionRequest, Job
from service.store.types import now

SOON = timedelta(days=7)
_OPEN = DeletionRequest.status.in_(sorted(REQUEST_OPEN))


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Ages in seconds; 0 where there is nothing that could be old."""

    requests_by_status: dict[str, int]
    overdue: int
    due_soon: int
    oldest_open_age: float
    queue_by_kind: dict[str, int]
    oldest_queued_age_by_kind: dict[str, float]
    stuck_by_status: dict[str, int]
    workers: int
    log_size: int
    checkpoint_size: int


def read(session: Session, *, sign_of_life_seconds: float) -> Readings:
    """Return the readings of now. Every status and kind is there, so that a figure that falls to 0 is shown as 0."""
    moment = now()
    by_status = _counts(session, DeletionRequest.status, _OPEN)
    queued = session.execute(
        select(Job.kind, func.count(), func.min(Job.created_at))
        .where(Job.status == JobStatus.QUEUED)
        .group_by(Job.kind)
    ).all()
    stuck = _counts(session, Job.status, Job.status.in_(sorted(JOB_STUCK)))
    return Readings(
        requests_by_status={status: by_status.get(status, 0) for status in RequestStatus if status in REQUEST_OPEN},
        overdue=_due(session, DeletionRequest.due_at < moment),
        due_soon=_due(session, DeletionRequest.due_at.between(moment, moment + SOON)),
        oldest_open_age=_age(session.scalar(select(func.min(DeletionRequest.received_at)).where(_OPEN)), moment),
        queue_by_kind=dict.fromkeys(JobKind, 0) | {row[0]: row[1] for row in queued},
        oldest_queued_age_by_kind=dict.fromkeys(JobKind, 0.0) | {row[0]: _age(row[2], moment) for row in queued},
        stuck_by_status={status: stuck.get(status, 0) for status in sorted(JOB_STUCK)},
        workers=workers.alive(session, within_seconds=sign_of_life_seconds),
        log_size=session.scalar(select(AuditHead.size)) or 0,
        checkpoint_size=session.scalar(select(func.max(AuditCheckpoint.size))) or 0,
    )


def _counts(session: Session, column: InstrumentedAttribute[str], where: ColumnElement[bool]) -> dict[str, int]:
    rows = session.execute(select(column, func.count()).where(where).group_by(column))
    return {row[0]: row[1] for row in rows}


def _due(session: Session, when: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(DeletionRequest).where(_OPEN, when)) or 0


def _age(since: datetime | None, moment: datetime) -> float:
    return max((moment - since) / timedelta(seconds=1), 0.0) if since is not None else 0.0
