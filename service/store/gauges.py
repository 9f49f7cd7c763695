"""What an operator watches: open requests, the queue, attempts, workers, the log. A handful of queries.

All of them are answered by indexes, but for the sums over attempts, which read the attempts once: thousands, not
millions, since a request makes one or two.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import JSON, ColumnElement, Float, cast, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind, JobStatus, RequestStatus, VersionState
from service.store import fanning_out, waiting_jobs, workers
from service.store.samples import dialect_of
from service.store.tables import (
    Attempt,
    AuditCheckpoint,
    AuditEntry,
    AuditHead,
    DeletionRequest,
    ErasedToken,
    Job,
    Restore,
    Version,
    WebhookDelivery,
    Worker,
)
from service.store.types import now
from service.store.workers import WorkerState

SOON = timedelta(days=7)
# Bytes that a sweep did not get rid of by then: the store refuses, or no worker sweeps.
PURGE_PATIENCE = timedelta(minutes=15)
LOST, VERDICTS = "lost", ("pass", "fail", "inconclusive")
_OPEN = DeletionRequest.status.in_(sorted(REQUEST_OPEN))


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """Attempts of one method that ended one way: how many, and the seconds they took together."""

    method: str
    outcome: str
    count: int
    seconds: float


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
    workers_by_state: dict[str, int]
    gpu_memory: dict[str, tuple[int, int]]
    checkpoints_not_kept: int
    attempts: list[Attempts]
    verdicts: dict[str, int]
    undeletable: int
    unjournaled: int
    restore_pending: bool
    webhooks_dead: int
    webhooks_pending: int
    log_size: int
    checkpoint_size: int
    checkpoint_age: float

    @property
    def leases_lost(self) -> int:
        return sum(each.count for each in self.attempts if each.outcome == LOST)


def read(session: Session, *, sweep_seconds: float) -> Readings:
    """Return the readings of now. Every status and kind is there, so that a figure that falls to 0 is shown as 0."""
    moment = now()
    by_status = _counts(session, DeletionRequest.status, _OPEN)
    queued = session.execute(
        select(Job.kind, func.count(), func.min(Job.created_at))
        .where(Job.status == JobStatus.QUEUED)
        .group_by(Job.kind)
    ).all()
    stuck = _counts(session, Job.status, waiting_jobs.wait_for_a_person())
    seen = workers.states(session, sweep_seconds=sweep_seconds)
    webhooks = _counts(session, WebhookDelivery.state, WebhookDelivery.state != fanning_out.DELIVERED)
    newest = session.execute(select(func.max(AuditCheckpoint.size), func.max(AuditCheckpoint.time))).one()
    return Readings(
        requests_by_status={status: by_status.get(status, 0) for status in RequestStatus if status in REQUEST_OPEN},
        overdue=_due(session, DeletionRequest.due_at < moment),
        due_soon=_due(session, DeletionRequest.due_at.between(moment, moment + SOON)),
        oldest_open_age=_age(session.scalar(select(func.min(DeletionRequest.received_at)).where(_OPEN)), moment),
        queue_by_kind=dict.fromkeys(JobKind, 0) | {row[0]: row[1] for row in queued},
        oldest_queued_age_by_kind=dict.fromkeys(JobKind, 0.0) | {row[0]: _age(row[2], moment) for row in queued},
        stuck_by_status={status: stuck.get(status, 0) for status in sorted(JOB_STUCK)},
        workers=sum(state != WorkerState.GONE for _, state in seen),
        workers_by_state=workers.count_states(seen),
        gpu_memory=_gpu_memory(seen),
        attempts=_attempts(session),
        checkpoints_not_kept=session.scalar(select(func.sum(Attempt.checkpoints_not_kept))) or 0,
        verdicts=dict.fromkeys(VERDICTS, 0) | _verdicts(session),
        undeletable=_undeletable(session, moment),
        unjournaled=session.scalar(select(func.count()).select_from(ErasedToken)) or 0,
        restore_pending=session.scalar(select(Restore.id).where(Restore.finished_at.is_(None)).limit(1)) is not None,
        webhooks_dead=webhooks.get(fanning_out.DEAD, 0),
        webhooks_pending=webhooks.get(fanning_out.PENDING, 0),
        log_size=session.scalar(select(AuditHead.size)) or 0,
        checkpoint_size=newest[0] or 0,
        checkpoint_age=_age(newest[1], moment),
    )


def _gpu_memory(seen: list[tuple[Worker, WorkerState]]) -> dict[str, tuple[int, int]]:
    return {
        row.id: (row.gpu_memory_used or 0, row.gpu_memory_total)
        for row, state in seen
        if state != WorkerState.GONE and row.gpu_memory_total
    }


def _attempts(session: Session) -> list[Attempts]:
    if dialect_of(session) == "postgresql":
        took: ColumnElement[float] = cast(func.extract("epoch", Attempt.finished_at - Attempt.started_at), Float)
    else:
        took = (func.julianday(Attempt.finished_at) - func.julianday(Attempt.started_at)) * 86_400.0
    method = func.coalesce(Attempt.method, "none")
    rows = session.execute(
        select(method, Attempt.outcome, func.count(), func.sum(took))
        .where(Attempt.outcome.is_not(None))
        .group_by(method, Attempt.outcome)
        .order_by(method, Attempt.outcome)
    )
    return [Attempts(method=row[0], outcome=str(row[1]), count=row[2], seconds=max(row[3] or 0.0, 0.0)) for row in rows]


def _verdicts(session: Session) -> dict[str, int]:
    """Return how many evaluations ended with each verdict, as the log has it: reports are large."""
    said: ColumnElement[str] = cast(AuditEntry.payload, JSON)["gate"].as_string()
    if dialect_of(session) == "sqlite":
        said = func.json_extract(AuditEntry.payload, "$.gate")
    rows = session.execute(select(said, func.count()).where(AuditEntry.action == "evaluation.recorded").group_by(said))
    return {row[0]: row[1] for row in rows}


def _undeletable(session: Session, moment: datetime) -> int:
    waiting = select(func.count()).where(
        Version.state == VersionState.RETIRED, Version.retired_at < moment - PURGE_PATIENCE
    )
    return session.scalar(waiting) or 0


def _counts(session: Session, column: InstrumentedAttribute[str], where: ColumnElement[bool]) -> dict[str, int]:
    rows = session.execute(select(column, func.count()).where(where).group_by(column))
    return {row[0]: row[1] for row in rows}


def _due(session: Session, when: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(DeletionRequest).where(_OPEN, when)) or 0


def _age(since: datetime | None, moment: datetime) -> float:
    return max((moment - since) / timedelta(seconds=1), 0.0) if since is not None else 0.0
