"""…/versions/{n}/downloads: who fetched which bytes of a version when, as the audit log has it."""

import json

from fastapi import APIRouter

from service.deps import PartsDep, needs
from service.routes.versions import VersionNumber
from service.schemas.common import Limit, Page, decode_number, encode_cursor
from service.schemas.retirement import DownloadOut
from service.store import audit, models, versions
from service.store.tables import AuditEntry

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["versions"])


@router.get("/{number}/downloads", operation_id="list_downloads", dependencies=[needs("audit:read")])
def list_all(
    name: str, number: VersionNumber, parts: PartsDep, limit: Limit = 100, cursor: str | None = None
) -> Page[DownloadOut]:
    """Return each answer that sent bytes of the weights, oldest first; HEAD and 304 send none."""
    with parts.database.reading() as session:
        version = versions.get(session, models.by_name(session, name), number)
        rows = audit.find(
            session,
            after=decode_number(cursor, -1),
            limit=limit,
            actions=["version.downloaded"],
            links={"version": f"{name}/{version.number}"},
        )
    return Page(
        items=[_view(row) for row in rows], next_cursor=encode_cursor(rows[-1].seq) if len(rows) == limit else None
    )


def _view(row: AuditEntry) -> DownloadOut:
    payload = json.loads(row.payload)
    return DownloadOut(seq=row.seq, time=row.time, key=row.actor, sha256=payload["sha256"], range=payload.get("range"))
