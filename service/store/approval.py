"""Requests so large that a second person must approve them before any model is worked on."""

from sqlalchemy.orm import Session

from service.errors import Conflict, Forbidden
from service.lifecycle import REQUEST_OPEN
from service.store import decisions, holds, requests, withdrawal
from service.store.decisions import Decided
from service.store.requests import APPROVAL_NEEDED
from service.store.tables import DeletionRequest, Job


def approve(session: Session, request_id: str, *, by: str, suppression_key: bytes, four_eyes: bool) -> Decided:
    """Lift the hold for want of approval and queue the work, if nothing else holds the request.

    Raises NotFound, Forbidden for who made the request, Conflict where there is nothing to approve.
    """
    request = withdrawal.lock(session, request_id)
    if four_eyes:
        refuse_requester([request], by)
    cause = requests.cause(request, APPROVAL_NEEDED)
    if request.status not in REQUEST_OPEN or cause is None:
        said = "is approved already" if request.approved_by else f"is {request.status} and needs no approval"
        raise Conflict(f"The request {said}.", code="approval_not_needed")
    request.approved_by = by
    requests.note(session, request, "request.approved", {"models": cause["models"]})
    holds.lift(session, request, APPROVAL_NEEDED)
    return decisions.go_on(session, request, suppression_key=suppression_key)


def refuse_requester(found: list[DeletionRequest], by: str) -> None:
    """Raise Forbidden if one of the requests is the approver's own."""
    own = [request.id for request in found if request.principal_id == by]
    if own:
        detail = (
            f"This key made {', '.join(own)}, and nobody approves what they asked for themselves. Approve it with "
            "another person's key."
        )
        raise Forbidden(detail, code="requester_may_not_approve")


def refuse_requester_of_job(session: Session, job: Job, by: str) -> None:
    """Raise Forbidden if the approver made one of the requests that the job works for."""
    refuse_requester(requests.of_job(session, job.id), by)
