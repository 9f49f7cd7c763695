"""POST /v1/deletion-requests/{id}/approve: let a request go on that is too large to be worked on unseen."""

from typing import Annotated

from fastapi import APIRouter

from service.auth import Principal
from service.deps import PartsDep, needs, writing_as
from service.routes.deletion_requests import view
from service.schemas.deletion_requests import DeletionRequestOut
from service.store import approval

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])


@router.post("/{request_id}/approve", operation_id="approve_deletion_request")
def approve(
    request_id: str, parts: PartsDep, who: Annotated[Principal, needs("approvals:write")]
) -> DeletionRequestOut:
    """Approve a request on hold for want of it. Who made it may not, unless the operator lifted that rule."""
    with writing_as(parts, who) as session:
        decided = approval.approve(
            session,
            request_id,
            by=who.id,
            suppression_key=parts.secrets.suppression,
            four_eyes=parts.settings.four_eyes != "off",
        )
        session.flush()
        answer = view(session, decided.request, parts)
    parts.bell.ring(decided.ring)
    return answer
