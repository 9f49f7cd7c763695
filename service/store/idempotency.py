"""The first answer to each Idempotency-Key, so that a repeated call changes nothing."""

from typing import Any

from sqlalchemy import bindparam, insert, select
from sqlalchemy.orm import Session

from service.errors import Fault, InvalidRequest
from service.store.tables import IdempotencyKey, table_of

_KEYS = table_of(IdempotencyKey)
_FIND = select(_KEYS.c.fingerprint, _KEYS.c.answer).where(
    _KEYS.c.principal_id == bindparam("of_principal"), _KEYS.c.key == bindparam("of_key")
)
_KEEP = insert(_KEYS)


def find(session: Session, principal_id: str, key: str | None, fingerprint: bytes) -> dict[str, Any] | None:
    """Return the answer the key had. Raises InvalidRequest if it came with another body."""
    if key is None:
        return None
    row = session.execute(_FIND, {"of_principal": principal_id, "of_key": key}).one_or_none()
    if row is None:
        return None
    if row.fingerprint != fingerprint:
        detail = "This Idempotency-Key was used with another body; take a new key for a new request."
        faults = [Fault("/headers/Idempotency-Key", "idempotency_key_reused")]
        raise InvalidRequest(detail, code="idempotency_key_reused", faults=faults)
    answer: dict[str, Any] = row.answer
    return answer


def keep(
    session: Session,
    principal_id: str,
    key: str | None,
    fingerprint: bytes,
    request_id: str,
    answer: dict[str, Any],
) -> None:
    """Store the answer in the request's own transaction. It must hold no sample ID."""
    if key is not None:
        row = {"principal_id": principal_id, "key": key, "fingerprint": fingerprint}
        session.execute(_KEEP, {**row, "request_id": request_id, "answer": answer})
