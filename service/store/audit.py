"""The audit log: entries recorded during a transaction, numbered and appended at its very end.

Taking the number last keeps the head row locked for microseconds, and makes the order of numbers the order of
commits: no gaps, no forks. Payloads carry counts and commitments, never a sample ID.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.orm import Session

from service.evidence.leaf import entry_bytes, payload_bytes
from service.evidence.merkle import hash_leaf
from service.store.tables import AuditEntry, AuditHead, AuditLink, table_of
from service.store.types import now

_PENDING = "audit_pending"
_ACTOR = "audit_actor"
SYSTEM = "system"
_HEAD = table_of(AuditHead)
_LENGTHEN = update(_HEAD).where(_HEAD.c.id == 1).values(size=_HEAD.c.size + bindparam("more")).returning(_HEAD.c.size)
_ENTRIES, _LINKS = insert(table_of(AuditEntry)), insert(table_of(AuditLink))


@dataclass(frozen=True, kw_only=True)
class Recorded:
    time: datetime
    actor: str
    action: str
    subject: str
    payload: Mapping[str, Any]
    links: tuple[tuple[str, str], ...] = field(default=())


def act_as(session: Session, actor: str) -> None:
    """Say who is behind everything this session records."""
    session.info[_ACTOR] = actor


def record(
    session: Session,
    action: str,
    *,
    subject: str,
    payload: Mapping[str, Any],
    links: Mapping[str, Any] | None = None,
) -> None:
    """Note an entry; the transaction's boundary appends it. ``links``: kind -> reference or list of references."""
    pairs = tuple(
        (kind, ref)
        for kind, refs in (links or {}).items()
        if refs is not None
        for ref in (refs if isinstance(refs, list | tuple | set) else [refs])
    )
    session.info.setdefault(_PENDING, []).append(
        Recorded(
            time=now(),
            actor=session.info.get(_ACTOR, SYSTEM),
            action=action,
            subject=subject,
            payload=payload,
            links=pairs,
        )
    )


def take_numbers(session: Session) -> int:
    """Lock the log's head, give each recorded entry its number, and return the first; the last reading statement."""
    pending: list[Recorded] = session.info.get(_PENDING, [])
    if not pending:
        return 0
    size = session.scalar(_LENGTHEN, {"more": len(pending)})
    if size is None:
        raise RuntimeError("the audit head row is missing; run the migrations")
    return int(size) - len(pending)


def append_recorded(session: Session, first: int) -> None:
    """Insert what was recorded, under numbers from ``first`` on; to be called last before the commit."""
    pending: list[Recorded] = session.info.pop(_PENDING, [])
    if not pending:
        return
    rows, links = [], []
    for seq, entry in enumerate(pending, start=first):
        rows.append(_row(seq, entry))
        links += [{"kind": kind, "ref": ref, "seq": seq} for kind, ref in dict.fromkeys(entry.links)]
    session.execute(_ENTRIES, rows)
    if links:
        session.execute(_LINKS, links)


def _row(seq: int, entry: Recorded) -> dict[str, Any]:
    payload = payload_bytes(entry.payload)
    fields = {
        "seq": seq,
        "time": moment(entry.time),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
    }
    leaf = hash_leaf(entry_bytes(**fields, payload=payload))  # type: ignore[arg-type]
    return {**fields, "payload": payload.decode(), "leaf_hash": leaf.hex()}


def hashed_bytes(entry: AuditEntry) -> bytes:
    """Return the very bytes whose hash is the entry's leaf."""
    return entry_bytes(
        seq=entry.seq,
        time=entry.time,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        payload=entry.payload.encode(),
    )


def moment(time: datetime) -> str:
    """Return the text under which a moment is hashed and compared: UTC, microseconds, Z."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def find(
    session: Session,
    *,
    after: int = -1,
    limit: int = 100,
    actions: Sequence[str] = (),
    actor: str | None = None,
    since: str | None = None,
    until: str | None = None,
    links: Mapping[str, str] | None = None,
) -> list[AuditEntry]:
    """Return entries with ``seq > after`` in order. Each filter narrows; ``links`` are kind -> reference."""
    query = select(AuditEntry).where(AuditEntry.seq > after)
    if actions:
        query = query.where(AuditEntry.action.in_(actions))
    if actor:
        query = query.where(AuditEntry.actor == actor)
    if since:
        query = query.where(AuditEntry.time >= since)
    if until:
        query = query.where(AuditEntry.time < until)
    for kind, ref in (links or {}).items():
        query = query.where(
            AuditEntry.seq.in_(select(AuditLink.seq).where(AuditLink.kind == kind, AuditLink.ref == ref))
        )
    return list(session.scalars(query.order_by(AuditEntry.seq).limit(limit)))
