"""/v1/deletion-requests/{id}/residuals: what held the samples, and what became of it."""

from fastapi import APIRouter
from pydantic import TypeAdapter

from service.deps import PartsDep, needs
from service.schemas.retirement import ResidualOut, ResidualsOut
from service.store import requests, residuals

_ITEMS = TypeAdapter(list[ResidualOut])

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion-requests"])


@router.get("/{request_id}/residuals", operation_id="list_residuals", dependencies=[needs("audit:read")])
def list_all(request_id: str, parts: PartsDep) -> ResidualsOut:
    """Return every artefact that held samples of the request, with each step of what became of it."""
    with parts.database.reading() as session:
        found = residuals.of_request(session, requests.get(session, request_id).id)
    items = _ITEMS.validate_python(found, from_attributes=True)
    return ResidualsOut(request=request_id, waiting=sum(item.waiting for item in items), items=items)
