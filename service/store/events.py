"""What followers of requests and jobs are told, written together at the end of the transaction.

No event carries a sample ID.
"""

from typing import Any

from sqlalchemy import insert, or_, select
from sqlalchemy.orm import Session

from service.store.tables import Event, JobRequest, table_of
from service.store.types import now

_PENDING = "events_pending"
# In line: one row alone would otherwise be asked for the id it got, and in a pipeline nobody reads the answer.
_EVENTS = insert(table_of(Event)).inline()


def emit(
    session: Session,
    name: str,
    data: dict[str, Any],
    *,
    request_id: str | None = None,
    job_id: str | None = None,
) -> None:
    """Tell the followers of a request, or of every request a job works for, once the transaction commits."""
    row = {"request_id": request_id, "job_id": job_id, "name": name, "data": data, "time": now()}
    session.info.setdefault(_PENDING, []).append(row)


def append_emitted(session: Session) -> None:
    """Insert what was emitted, in order; the transaction's boundary calls this."""
    pending: list[dict[str, Any]] = session.info.pop(_PENDING, [])
    if pending:
        session.execute(_EVENTS, pending)


def of_request(session: Session, request_id: str, *, after: int, limit: int = 200) -> list[Event]:
    """Return the request's own events and its jobs', in order."""
    jobs = select(JobRequest.job_id).where(JobRequest.request_id == request_id)
    return list(
        session.scalars(
            select(Event)
            .where(or_(Event.request_id == request_id, Event.job_id.in_(jobs)), Event.id > after)
            .order_by(Event.id)
            .limit(limit)
        )
    )
