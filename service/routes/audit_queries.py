"""/v1/audit/export and /v1/audit/state: the whole log as lines, and what it says was so at a moment."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from service.deps import PartsDep, needs
from service.errors import Fault, InvalidRequest
from service.routes.audit import Filters, FiltersDep, found
from service.schemas.common import Limit, Moment, Page, decode_cursor, encode_cursor
from service.store import audit, audit_state, audit_tree
from service.store.session import Database

NDJSON = "application/x-ndjson"
PAGE = 1000

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class StateOut(BaseModel):
    """`seq` is the entry that says so, and `since` its time."""

    subject: str
    state: str
    since: str
    seq: int
    action: str


@router.get(
    "/export",
    operation_id="export_audit_log",
    dependencies=[needs("audit:read")],
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {}}}},
)
def export(parts: PartsDep, filters: FiltersDep) -> StreamingResponse:
    """Stream the entries up to now, one JSON document a line, as `GET /v1/audit/entries` gives them."""
    with parts.database.reading() as session:
        end = audit_tree.head(session)
    return StreamingResponse(_lines(parts.database, filters, end=end), media_type=NDJSON)


def _lines(database: Database, filters: Filters, *, end: int) -> Iterator[str]:
    """Yield the lines page by page, each in a transaction of its own: a slow reader holds none open."""
    after = -1
    while True:
        with database.reading() as session:
            items = found(session, filters, after=after, limit=PAGE)
        lines = [item.model_dump_json() + "\n" for item in items if item.seq < end]
        if lines:
            yield "".join(lines)
        if len(lines) < PAGE:
            return
        after = items[-1].seq


@router.get("/state", operation_id="get_audit_state", dependencies=[needs("audit:read")])
def state(
    parts: PartsDep,
    at: Annotated[Moment, Query(description="A moment with its zone.")],
    model: str | None = None,
    request_id: str | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Page[StateOut]:
    """Return the state that one request, or each version and request of a model, had at a moment, by the log."""
    if (model is None) == (request_id is None):
        detail = "Name a model or a request_id, and not both."
        raise InvalidRequest(detail, faults=[Fault("/model", "model_or_request_id", model, detail)])
    with parts.database.reading() as session:
        found_then = audit_state.as_of(
            session,
            at=audit.moment(at),
            model=model,
            request_id=request_id,
            after=decode_cursor(cursor) or "",
            limit=limit,
        )
    items = [StateOut(**{name: getattr(each, name) for name in StateOut.model_fields}) for each in found_then]
    return Page(items=items, next_cursor=encode_cursor(items[-1].subject) if len(items) == limit else None)
