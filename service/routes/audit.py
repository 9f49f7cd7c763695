"""/v1/audit: the append-only log, filtered and paged."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel
from sqlalchemy.orm import Session

from service.deps import PartsDep, needs
from service.lanes import long_read
from service.schemas.common import Limit, Moment, Page, decode_number, encode_cursor
from service.store import audit

# No cursor looks like this: each begins with letters.
_SEQ = re.compile(r"[0-9]{1,18}")

router = APIRouter(prefix="/v1/audit", tags=["audit"])


class EntryOut(BaseModel):
    """`leaf_hash` is SHA-256(0x00 ‖ RFC 8785 JSON of the other six fields)."""

    seq: int
    time: str
    actor: str
    action: str
    subject: str
    payload: dict[str, Any]
    leaf_hash: str


def _beyond(after: str | None) -> int:
    """Return the seq that ``after`` names, by itself or as a cursor. Raises InvalidRequest."""
    if after is None or after == "-1":
        return -1
    return int(after) if _SEQ.fullmatch(after) else decode_number(after, -1, pointer="/after")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which entries; each filter that is named narrows."""

    actions: Sequence[str]
    actor: str | None
    since: str | None
    until: str | None
    links: Mapping[str, str]


def _filters(
    request_id: str | None = None,
    job_id: str | None = None,
    model: str | None = None,
    version: Annotated[str | None, Query(description="model/number")] = None,
    dataset: str | None = None,
    action: Annotated[list[str] | None, Query()] = None,
    actor: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Filters:
    named = {"request": request_id, "job": job_id, "model": model, "version": version, "dataset": dataset}
    return Filters(
        actions=action or (),
        actor=actor,
        since=audit.moment(since) if since else None,
        until=audit.moment(until) if until else None,
        links={kind: ref for kind, ref in named.items() if ref is not None},
    )


FiltersDep = Annotated[Filters, Depends(_filters)]


def found(session: Session, filters: Filters, *, after: int, limit: int) -> list[EntryOut]:
    """Return the entries beyond ``after`` that the filters name."""
    rows = audit.find(
        session,
        after=after,
        limit=limit,
        actions=filters.actions,
        actor=filters.actor,
        since=filters.since,
        until=filters.until,
        links=filters.links,
    )
    return [
        EntryOut(
            payload=json.loads(row.payload),
            **{f: getattr(row, f) for f in ("seq", "time", "actor", "action", "subject", "leaf_hash")},
        )
        for row in rows
    ]


@router.get("/entries", operation_id="list_audit_entries", dependencies=[needs("audit:read")])
@long_read
def entries(
    parts: PartsDep,
    filters: FiltersDep,
    after: Annotated[str | None, Query(description="A seq, or a `next_cursor`: entries beyond it.")] = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Page[EntryOut]:
    """Return entries in order; each filter narrows. `next_cursor` is null at the end."""
    # Whoever pages from `after=7` on repeats it beside each cursor, which is further on.
    start = _beyond(after) if cursor is None else decode_number(cursor, -1)
    with parts.database.reading() as session:
        items = found(session, filters, after=start, limit=limit)
    return Page(items=items, next_cursor=encode_cursor(items[-1].seq) if len(items) == limit else None)
