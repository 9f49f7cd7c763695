"""API keys: shown once, stored as a hash, rotated without changing whose they are."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.store import audit
from service.store.tables import ApiKey, table_of
from service.store.types import new_id, now

_MARK = "ul_"
_SHOWN = 8
OVERLAP_SECONDS, MAX_OVERLAP_SECONDS = 86_400, 30 * 86_400


@dataclass(frozen=True, kw_only=True)
class Valid:
    """What a key that is valid now stands for."""

    id: str
    name: str
    scopes: frozenset[str]
    quotas: Mapping[str, int] | None


def digest(text: str) -> bytes:
    """Return what is stored of a key's text."""
    return hashlib.sha256(text.encode()).digest()


def _new_text() -> tuple[str, str]:
    """Return a secret of 256 random bits, and the start of it that may be shown."""
    text = _MARK + secrets.token_urlsafe(32)
    return text, text[: len(_MARK) + _SHOWN]


def create(
    session: Session,
    *,
    name: str,
    scopes: list[str],
    expires_at: datetime | None = None,
    quotas: dict[str, Any] | None = None,
) -> tuple[ApiKey, str]:
    """Make a key and return its text beside its row; the text is not stored."""
    text, prefix = _new_text()
    row = ApiKey(
        id=new_id("key"),
        name=name,
        prefix=prefix,
        sha256=digest(text),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
        quotas=quotas or None,
    )
    session.add(row)
    session.flush()
    payload = {"name": name, "scopes": row.scopes, **({"quotas": quotas} if quotas else {})}
    audit.record(session, "key.created", subject=f"key/{row.id}", payload=payload, links={"key": row.id})
    return row, text


_KEYS = table_of(ApiKey)
_FIND = select(
    _KEYS.c.id, _KEYS.c.name, _KEYS.c.scopes, _KEYS.c.quotas, _KEYS.c.expires_at, _KEYS.c.sha256, _KEYS.c.previous_until
).where(
    or_(_KEYS.c.sha256 == bindparam("digest"), _KEYS.c.previous_sha256 == bindparam("digest")),
    _KEYS.c.revoked_at.is_(None),
)


def find(connection: Connection, text: str) -> Valid | None:
    """Return the key if it is valid now. Looked up by hash, so no comparison leaks its bytes."""
    asked = digest(text)
    row = connection.execute(_FIND, {"digest": asked}).one_or_none()
    if row is None:
        return None
    ends = [row.expires_at] if bytes(row.sha256) == asked else [row.expires_at, row.previous_until]
    if any(end is not None and end <= now() for end in ends):
        return None
    return Valid(id=row.id, name=row.name, scopes=frozenset(row.scopes), quotas=row.quotas)


def state(row: ApiKey) -> str:
    """Return ``active``, ``expired`` or ``revoked``."""
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now() else "active"


def page(session: Session, *, after: str, limit: int) -> list[ApiKey]:
    return list(session.scalars(select(ApiKey).where(ApiKey.id > after).order_by(ApiKey.id).limit(limit)))


def _locked(session: Session, key_id: str) -> ApiKey:
    row = session.get(ApiKey, key_id, with_for_update={"key_share": True}, populate_existing=True)
    if row is None:
        raise NotFound("There is no such API key.", code="key_not_found")
    return row


def rotate(session: Session, key_id: str, *, overlap_seconds: int) -> tuple[ApiKey, str]:
    """Give the key a new secret and return it; the one it had stays valid through the overlap.

    A secret still in its overlap from an earlier rotation ends now. Raises NotFound, Conflict.
    """
    row = _locked(session, key_id)
    if row.revoked_at is not None:
        raise Conflict("The key is revoked, and stays so; make a new one.", code="key_revoked")
    if row.expires_at is not None and row.expires_at <= now():
        raise Conflict("The key has expired; make a new one.", code="key_expired")
    text, row.prefix = _new_text()
    until = now() + timedelta(seconds=overlap_seconds)
    row.previous_sha256, row.previous_until = (row.sha256, until) if overlap_seconds else (None, None)
    row.sha256 = digest(text)
    payload = {"overlap_seconds": overlap_seconds}
    audit.record(session, "key.rotated", subject=f"key/{key_id}", payload=payload, links={"key": key_id})
    session.flush()
    return row, text


def revoke(session: Session, key_id: str) -> None:
    """End a key, with whatever secrets it has, now; doing it twice is not an error. Raises NotFound."""
    row = _locked(session, key_id)
    if row.revoked_at is None:
        row.revoked_at = now()
        audit.record(session, "key.revoked", subject=f"key/{key_id}", payload={}, links={"key": key_id})


_MOMENT = bindparam("moment", type_=_KEYS.c.last_used_at.type)
_USED = (
    update(_KEYS)
    .where(_KEYS.c.id == bindparam("key"), or_(_KEYS.c.last_used_at.is_(None), _KEYS.c.last_used_at < _MOMENT))
    .values(last_used_at=_MOMENT)
)


def note_use(session: Session, used: Mapping[str, datetime]) -> None:
    """Write down when keys were last used, unless a later use is known. Kept for operators: no entry in the log."""
    # In one order, so that two processes that write at once do not wait for each other in a ring.
    session.execute(_USED, [{"key": key_id, "moment": used[key_id]} for key_id in sorted(used)])
