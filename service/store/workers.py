"""Workers' signs of life, and which of them does not take the work that is there to be taken."""

from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY
from service.store import jobs
from service.store.tables import Job, Worker
from service.store.types import now

SIGN_OF_LIFE_SWEEPS, DEAF_SWEEPS, LEAST_DEAF_SECONDS = 4, 6, 30.0
_REMEMBERED = timedelta(days=1)


class WorkerState(StrEnum):
    """``deaf``: it lives and works on nothing, though it could long since have taken a job. ``gone``: silent."""

    IDLE = "idle"
    BUSY = "busy"
    DEAF = "deaf"
    GONE = "gone"


def seen(session: Session, worker_id: str, *, gpu_memory: tuple[int, int] | None = None) -> None:
    """Note that the worker lives, since when it leaves work lying, and its GPU's used and total bytes.

    Forgets those silent for a day.
    """
    row = session.get(Worker, worker_id)
    if row is None:
        row = Worker(id=worker_id, started_at=now())
        session.add(row)
    row.seen_at = now()
    if not _leaves_work(session, worker_id):
        row.leaves_work_since = None
    elif row.leaves_work_since is None:
        row.leaves_work_since = now()
    row.gpu_memory_used, row.gpu_memory_total = gpu_memory or (None, None)
    session.execute(delete(Worker).where(Worker.seen_at < now() - _REMEMBERED))


def _leaves_work(session: Session, worker_id: str) -> bool:
    claimable = session.scalar(jobs.claimable().limit(1)) is not None
    return claimable and not session.scalar(select(exists().where(Job.owner == worker_id, Job.status.in_(JOB_BUSY))))


def left(session: Session, worker_id: str) -> None:
    """Forget a worker that ends in good order."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def alive(session: Session, *, within_seconds: float) -> int:
    moment, within = now(), timedelta(seconds=within_seconds)
    # Seen in the future: the clock was set back since.
    recent = Worker.seen_at.between(moment - within, moment + within)
    return session.scalar(select(func.count()).select_from(Worker).where(recent)) or 0


def states(session: Session, *, sweep_seconds: float) -> list[tuple[Worker, WorkerState]]:
    """Return each worker seen within a day, and what it is at, by id."""
    busy = set(session.scalars(select(Job.owner).where(Job.status.in_(JOB_BUSY))))
    rows = session.scalars(select(Worker).order_by(Worker.id))
    return [(row, _state(row, busy=row.id in busy, sweep_seconds=sweep_seconds)) for row in rows]


def count_states(found: list[tuple[Worker, WorkerState]]) -> dict[str, int]:
    """Return how many workers are in each state, all states named."""
    counts = {str(state): 0 for state in WorkerState}
    for _, state in found:
        counts[state] += 1
    return counts


def _state(row: Worker, *, busy: bool, sweep_seconds: float) -> WorkerState:
    if row.seen_at < now() - timedelta(seconds=SIGN_OF_LIFE_SWEEPS * sweep_seconds):
        return WorkerState.GONE
    if busy:
        return WorkerState.BUSY
    return WorkerState.DEAF if _deaf(row.leaves_work_since, sweep_seconds) else WorkerState.IDLE


def _deaf(leaves_work_since: datetime | None, sweep_seconds: float) -> bool:
    patience = timedelta(seconds=max(DEAF_SWEEPS * sweep_seconds, LEAST_DEAF_SECONDS))
    return leaves_work_since is not None and leaves_work_since < now() - patience
