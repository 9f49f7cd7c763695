"""Workers' signs of life."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.store.tables import Worker
from service.store.types import now


def seen(session: Session, worker_id: str) -> None:
    """Note that the worker lives, and forget those silent for a day."""
    row = session.get(Worker, worker_id)
    if row is None:
        session.add(Worker(id=worker_id, started_at=now(), seen_at=now()))
    else:
        row.seen_at = now()
    session.execute(delete(Worker).where(Worker.seen_at < now() - timedelta(days=1)))


def alive(session: Session, *, within_seconds: float) -> int:
    since = now() - timedelta(seconds=within_seconds)
    return session.scalar(select(func.count()).select_from(Worker).where(Worker.seen_at >= since)) or 0
