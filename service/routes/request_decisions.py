"""What people decide about a deletion request: more time, a denial, a hold and its release."""

from typing import Annotated

from fastapi import APIRouter
from sqlalchemy.orm import Session

from service.auth import Principal
from service.deps import Parts, PartsDep, needs, writing_as
from service.routes.deletion_requests import view
from service.schemas.deletion_requests import DeletionRequestOut
from service.schemas.request_decisions import DenialIn, ExtensionIn, HoldIn
from service.store import decisions
from service.store.decisions import Decided

router = APIRouter(prefix="/v1/deletion-requests/{request_id}", tags=["deletion requests"])
Writer = Annotated[Principal, needs("requests:write")]


@router.post("/extension", operation_id="extend_deletion_request")
def extend(request_id: str, body: ExtensionIn, parts: PartsDep, who: Writer) -> DeletionRequestOut:
    """Put the due date off by one or two months, before it has passed; three months from receipt are the most."""
    with writing_as(parts, who) as session:
        zone = parts.secrets.time_zone
        decided = decisions.extend(session, request_id, months=body.months, note=body.reason, by=who.id, zone=zone)
        return _document(session, decided, parts)


@router.post("/deny", operation_id="deny_deletion_request")
def deny(request_id: str, body: DenialIn, parts: PartsDep, who: Writer) -> DeletionRequestOut:
    """End a request without erasing anything, as long as nothing is published; what is under way is discarded."""
    with writing_as(parts, who) as session:
        decided = decisions.deny(session, request_id, reason=body.reason, note=body.note, by=who.id)
        answer = _document(session, decided, parts)
    parts.bell.ring(decided.ring)
    return answer


@router.post("/hold", operation_id="hold_deletion_request")
def hold(request_id: str, body: HoldIn, parts: PartsDep, who: Writer) -> DeletionRequestOut:
    """Stop all work for a request until it is released; what is under way is discarded. The due date stands."""
    with writing_as(parts, who) as session:
        decided = decisions.hold(session, request_id, note=body.reason, by=who.id)
        answer = _document(session, decided, parts)
    parts.bell.ring(decided.ring)
    return answer


@router.post("/release", operation_id="release_deletion_request")
def release(request_id: str, parts: PartsDep, who: Writer) -> DeletionRequestOut:
    """Lift the hold a person put on; the request goes on unless something else holds it."""
    with writing_as(parts, who) as session:
        decided = decisions.release(session, request_id, by=who.id, suppression_key=parts.secrets.suppression)
        answer = _document(session, decided, parts)
    parts.bell.ring(decided.ring)
    return answer


def _document(session: Session, decided: Decided, parts: Parts) -> DeletionRequestOut:
    session.flush()
    return view(session, decided.request, parts)
