"""The audit log: entries recorded during a transaction, numbered and appended at its very end.

Taking the number last keeps the head row locked for microseconds, and makes the order of numbers the order of
commits: no gaps, no forks. Payloads carry counts and commitments, never a sample ID.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import String, bindparam, case, insert, select, update
from sqlalchemy.orm import Session

from service.evidence.leaf import entry_bytes, payload_bytes
from service.evidence.merkle import hash_leaf
from service.store.tables import AuditEntry, AuditHead, AuditLink, table_of
from service.store.types import now

_PENDING = "audit_pending"
_ACTOR = "audit_actor"
SYSTEM = "system"
_HEAD = table_of(AuditHead)
_NOW = bindparam("now", type_=String)
_LENGTHEN = (
    update(_HEAD)
    .where(_HEAD.c.id == 1)
    # Times never run backwards, whichever process's clock is behind: a time range is then a range of numbers.
    .values(size=_HEAD.c.size + bindparam("more"), time=case((_HEAD.c.time > _NOW, _HEAD.c.time), else_=_NOW))
    .returning(_HEAD.c.size, _HEAD.c.time)
)
_ENTRIES, _LINKS = insert(table_of(AuditEntry)), insert(table_of(AuditLink))


@dataclass(frozen=True, kw_only=True)
class Recorded:
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
            actor=session.info.get(_ACTOR, SYSTEM),
            action=action,
            subject=subject,
            payload=payload,
            links=pairs,
        )
    )


@dataclass(frozen=True, kw_only=True)
class Numbered:
    """The number of a transaction's first entry, and the time of all."""

    first: int
    time: str


def time_now(session: Session) -> datetime:
    """Return the time now, or the newest entry's where that is later, as it is once a clock was set back.

    What is dated so goes with the log: no later entry is earlier.
    """
    newest = session.scalar(select(_HEAD.c.time).where(_HEAD.c.id == 1))
    return max(now(), datetime.fromisoformat(newest)) if newest else now()


def take_numbers(session: Session) -> Numbered | None:
    """Lock the log's head, and number and date what was recorded, if anything was; the last reading statement."""
    pending: list[Recorded] = session.info.get(_PENDING, [])
    if not pending:
        return None
    head = session.execute(_LENGTHEN, {"more": len(pending), "now": moment(now())}).one_or_none()
    if head is None:
        raise RuntimeError("the audit head row is missing; run the migrations")
    return Numbered(first=head.size - len(pending), time=head.time)


def append_recorded(session: Session, numbered: Numbered | None) -> None:
    """Insert what was recorded, as it was numbered; to be called last before the commit."""
    pending: list[Recorded] = session.info.pop(_PENDING, [])
    if numbered is None:
        return
    rows, links = [], []
    for seq, entry in enumerate(pending, start=numbered.first):
        rows.append(_row(seq, numbered.time, entry))
        links += [{"kind": kind, "ref": ref, "seq": seq} for kind, ref in dict.fromkeys(entry.links)]
    session.execute(_ENTRIES, rows)
    if links:
        session.execute(_LINKS, links)


def _row(seq: int, time: str, entry: Recorded) -> dict[str, Any]:
    payload = payload_bytes(entry.payload)
    fields = {"seq": seq, "time": time, "actor": entry.actor, "action": entry.action, "subject": entry.subject}
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


def first_at(session: Session, time: str) -> int | None:
    """Return the number of the first entry of this time or a later one; times are in the order of numbers."""
    rows = select(AuditEntry.seq).where(AuditEntry.time >= time).order_by(AuditEntry.time, AuditEntry.seq)
    return session.scalar(rows.limit(1))


def find(
    session: Session,
    *,
    after: int = -1,
    limit: int | None = 100,
    actions: Sequence[str] = (),
    actor: str | None = None,
    subject: str | None = None,
    since: str | None = None,
    until: str | None = None,
    links: Mapping[str, str] | None = None,
) -> list[AuditEntry]:
    """Return at most ``limit`` entries with ``seq > after``, in order. Each filter narrows.

    ``links`` are kind -> reference.
    """
    after, before = _between(session, after, since=since, until=until)
    query = select(AuditEntry).where(AuditEntry.seq > after)
    if before is not None:
        query = query.where(AuditEntry.seq < before)
    if actions:
        query = query.where(AuditEntry.action.in_(actions))
    if actor:
        query = query.where(AuditEntry.actor == actor)
    if subject:
        query = query.where(AuditEntry.subject == subject)
    for kind, ref in (links or {}).items():
        # The bound is said of the links too: the index then starts there, and not at the first of them.
        named = select(AuditLink.seq).where(AuditLink.kind == kind, AuditLink.ref == ref, AuditLink.seq > after)
        query = query.where(AuditEntry.seq.in_(named))
    return list(session.scalars(query.order_by(AuditEntry.seq).limit(limit)))


def _between(session: Session, after: int, *, since: str | None, until: str | None) -> tuple[int, int | None]:
    """Return the numbers between which the entries of a time range lie; None: up to the end."""
    before = first_at(session, until) if until is not None else None
    if since is not None:
        first = first_at(session, since)
        if first is None:
            return after, 0  # nothing is as late
        after = max(after, first - 1)
    return after, before
