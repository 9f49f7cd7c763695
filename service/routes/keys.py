"""/v1/api-keys: make, list, rotate and revoke keys."""

from typing import Annotated, Any

from fastapi import APIRouter, Response

from service.deps import PartsDep, needs, writing_as
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.keys import KeyCreated, KeyIn, KeyOut, KeyRotateIn
from service.store import keys
from service.store.tables import ApiKey

router = APIRouter(prefix="/v1/api-keys", tags=["keys"])


def _view(row: ApiKey) -> dict[str, Any]:
    return {field: getattr(row, field) for field in KeyOut.model_fields}


@router.post("", status_code=201, operation_id="create_api_key")
def create(body: KeyIn, parts: PartsDep, who: Annotated[Any, needs("admin")]) -> KeyCreated:
    """Make a key; its text is in this answer and nowhere else."""
    with writing_as(parts, who) as session:
        quotas = body.quotas.model_dump(exclude_none=True)
        row, text = keys.create(session, name=body.name, scopes=body.scopes, expires_at=body.expires_at, quotas=quotas)
        return KeyCreated(key=text, **_view(row))


@router.get("", operation_id="list_api_keys", dependencies=[needs("admin")])
def list_all(parts: PartsDep, limit: Limit = 100, cursor: str | None = None) -> Page[KeyOut]:
    with parts.database.reading() as session:
        rows = keys.page(session, after=decode_cursor(cursor) or "", limit=limit)
    items = [KeyOut(**_view(row)) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(rows[-1].id) if len(rows) == limit else None)


@router.post("/{key_id}/rotate", operation_id="rotate_api_key")
def rotate(
    key_id: str, parts: PartsDep, who: Annotated[Any, needs("admin")], body: KeyRotateIn | None = None
) -> KeyCreated:
    """Give the key a new secret; id, scopes and all that is the key's stay. The old one is valid for the overlap."""
    overlap = (body or KeyRotateIn()).overlap_seconds
    with writing_as(parts, who) as session:
        row, text = keys.rotate(session, key_id, overlap_seconds=overlap)
        return KeyCreated(key=text, **_view(row))


@router.delete("/{key_id}", status_code=204, operation_id="revoke_api_key", response_class=Response)
def revoke(key_id: str, parts: PartsDep, who: Annotated[Any, needs("admin")]) -> Response:
    with writing_as(parts, who) as session:
        keys.revoke(session, key_id)
    return Response(status_code=204)
