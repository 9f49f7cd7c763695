"""Withdrawing a deletion request before any work on it has started."""

from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import RequestStatus
from service.store import requests, withdrawal
from service.store.tables import DeletionRequest

# One whose job is stuck has been started; one on hold for want of a method may not have been.
_NOT_STARTED = (RequestStatus.ACCEPTED, RequestStatus.ON_HOLD)


def cancel(session: Session, request_id: str) -> DeletionRequest:
    """Cancel a request that no worker has started, its jobs where nobody else needs them. Raises NotFound, Conflict."""
    request = withdrawal.lock(session, request_id)
    if request.status == RequestStatus.CANCELLED:
        return request
    if request.status not in _NOT_STARTED or request.started_at is not None:
        raise Conflict(
            f"The request is {request.status}; only one that no worker has started can be cancelled.",
            code="work_has_started",
        )
    withdrawal.drop_jobs(session, request, reason="request_cancelled")
    requests.move(session, request, RequestStatus.CANCELLED)
    withdrawal.let_go(session, request, reason="request_cancelled")
    return request
