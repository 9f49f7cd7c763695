"""API keys: shown once, stored as a hash."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.store import audit
from service.store.tables import ApiKey, table_of
from service.store.types import new_id, now

_MARK = "ul_"
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Valid:
    """What a key that is valid now stands for."""

    id: str
    name: str
    scopes: frozenset[str]


def create(session: Session, *, name: str, scopes: list[str], expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """Make a key of 256 random bits and return it beside its row; the text is not stored."""
    text = _MARK + secrets.token_urlsafe(32)
    row = ApiKey(
        id=new_id("key"),
        name=name,
        prefix=text[: len(_MARK) + _SHOWN],
        sha256=hashlib.sha256(text.encode()).digest(),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    audit.record(
        session,
        "key.created",
        subject=f"key/{row.id}",
        payload={"name": name, "scopes": row.scopes},
        links={"key": row.id},
    )
    return row, text


_KEYS = table_of(ApiKey)
_FIND = select(_KEYS.c.id, _KEYS.c.name, _KEYS.c.scopes, _KEYS.c.expires_at).where(
    _KEYS.c.sha256 == bindparam("digest"), _KEYS.c.revoked_at.is_(None)
)


def find(connection: Connection, text: str) -> Valid | None:
    """Return the key if it is valid now. Looked up by hash, so no comparison leaks its bytes."""
    row = connection.execute(_FIND, {"digest": hashlib.sha256(text.encode()).digest()}).one_or_none()
    if row is None or (row.expires_at is not None and row.expires_at <= now()):
        return None
    return Valid(id=row.id, name=row.name, scopes=frozenset(row.scopes))


def page(session: Session, *, after: str, limit: int) -> list[ApiKey]:
    return list(session.scalars(select(ApiKey).where(ApiKey.id > after).order_by(ApiKey.id).limit(limit)))


def revoke(session: Session, key_id: str) -> None:
    """End a key now; doing it twice is not an error. Raises NotFound."""
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound("There is no such API key.", code="key_not_found")
    if row.revoked_at is None:
        row.revoked_at = now()
        audit.record(session, "key.revoked", subject=f"key/{key_id}", payload={}, links={"key": key_id})
