"""POST /v1/deletion-requests/preview: what the same request would do, with nothing stored and nobody rung for."""

from typing import Annotated

from fastapi import APIRouter

from service.auth import Principal
from service.deps import PartsDep, needs, writing_as
from service.errors import MAX_FAULTS, Fault
from service.routes.deletion_requests import allowed, order_of
from service.schemas.deletion_requests import DeletionRequestIn
from service.schemas.previews import FaultOut, PreviewOut
from service.store import previews, quotas

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])


@router.post("/preview", operation_id="preview_deletion_request")
def preview(body: DeletionRequestIn, parts: PartsDep, who: Annotated[Principal, needs("requests:write")]) -> PreviewOut:
    """Tell what this request would do if it were made now; what it would be refused for stands under ``faults``."""
    order, known = order_of(body, parts, who)
    with parts.database.reading() as session:
        over = quotas.refusal(session, who.id, allowed(parts, who), sample_ids=len(body.sample_ids))
        if over is not None:
            known.append(Fault("", over.code, None, over.detail))
        found = previews.preview(session, order, parts.secrets, known)
    with writing_as(parts, who) as session:
        previews.note(session, order, found)
    return PreviewOut(
        acceptable=not found.faults,
        faults=[FaultOut.model_validate(vars(fault)) for fault in found.faults[:MAX_FAULTS]],
        faults_total=len(found.faults),
        dataset=found.dataset.name,
        purpose=body.purpose,
        method=body.method,
        scope="full" if body.models is None else "partial",
        received_at=found.received_at,
        due_at=found.due_at,
        counts=found.counts,
        models=found.models,
        approval_needed=found.approval_needed,
    )
