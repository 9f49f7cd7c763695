"""What is announced of open requests while the time to their due dates runs out, each mark once.

The mark last announced stands in the request's row and is moved on in the transaction that announces it, under the
dataset's lock: neither a restart nor a second process announces one again.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import deadlines
from service.store import datasets, fan_out, outbox, requests
from service.store.tables import Dataset, DeletionRequest
from service.store.types import now

BATCH = 500


def due_to_be_announced(session: Session) -> list[str]:
    """Return the requests that a mark has gone by of, longest ago first."""
    query = select(DeletionRequest.id).where(DeletionRequest.next_mark_at < now())
    return list(session.scalars(query.order_by(DeletionRequest.next_mark_at).limit(BATCH)))


def announce(session: Session, request_id: str) -> None:
    """Announce the marks that have gone by since the last one; past the due date, quarantine what knows the samples."""
    request = requests.get(session, request_id)
    datasets.lock(session, request.dataset_id)
    session.refresh(request)
    if request.next_mark_at is None or request.due_at is None:
        return
    last = deadlines.reached(request.received_at, request.due_at, at=now())
    for percent in deadlines.MARKS:
        if request.mark_reached < percent <= last:
            _tell(session, request, f"request.deadline_{percent}", percent=percent)
            if percent == 100:
                _tell(session, request, "request.overdue")
                fan_out.withhold_all(session, request)
    set_marks(request, last=max(last, request.mark_reached))


def set_marks(request: DeletionRequest, *, last: int) -> None:
    """Note which mark was announced last, and when the next one goes by."""
    request.mark_reached, request.next_mark_at = last, None
    if request.due_at is not None:
        request.next_mark_at = deadlines.next_mark(request.received_at, request.due_at, after=last)


def _tell(session: Session, request: DeletionRequest, action: str, **facts: Any) -> None:
    due_at = request.due_at.isoformat() if request.due_at else None
    dataset = session.get_one(Dataset, request.dataset_id).name
    requests.note(session, request, action, {"due_at": due_at, **facts})
    told = {"request": request.id, "dataset": dataset, "status": request.status, "due_at": due_at, **facts}
    outbox.announce(session, action, told)
