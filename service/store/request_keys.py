"""The keys behind requests' commitments: wrapped at rest, kept for a time after the request's end, then shredded.

Shredding deletes the row, key and commitments both. The log and the request keep the commitments' root, which then
can be linked to nobody: not even with the master key and a list of every id.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import case, delete, func, select, update
from sqlalchemy.orm import Session

from service.errors import Conflict, Gone, ServiceError
from service.evidence import commitments
from service.evidence.key_wrapping import WRAPPING, CannotUnwrap, unwrap, wrap
from service.lifecycle import RequestStatus
from service.store import audit, decision_notes, requests, traces
from service.store.tables import (
    Dataset,
    DeletionRequest,
    IdempotencyKey,
    RequestKey,
    RequestSample,
    Sample,
    Suppression,
)
from service.store.types import now

OVER = (RequestStatus.COMPLETED, RequestStatus.DENIED, RequestStatus.CANCELLED)
_LEAF_BYTES, _CHUNK = 32, 200
# An id is suppressed in the transaction that completes its request, and that may take a while.
_AROUND, _LONG_AGO = timedelta(minutes=10), datetime(1970, 1, 1, tzinfo=UTC)


def row(request_id: str, request_key: bytes, wrapping_key: bytes, leaves: Sequence[bytes]) -> dict[str, Any]:
    """Return the row to insert for a new request. ``leaves``: its commitments, in byte order."""
    wrapped = wrap(wrapping_key, request_key, request_id)
    return {"request_id": request_id, "key": wrapped, "wrapping": WRAPPING, "commitments": b"".join(leaves)}


def of(session: Session, request_id: str, wrapping_key: bytes) -> bytes | None:
    """Return the request's key; None once it is shredded. Raises ServiceError under another master key."""
    found = session.get(RequestKey, request_id)
    return None if found is None else _opened(found, wrapping_key)


def _opened(found: RequestKey, wrapping_key: bytes) -> bytes:
    if found.wrapping is None:
        return found.key
    try:
        return unwrap(wrapping_key, found.key, found.request_id)
    except CannotUnwrap:
        detail = (
            "The request's key cannot be opened: the service runs under another master key than it was stored with."
        )
        raise ServiceError(detail, code="request_key_unreadable") from None


def leaves_of(session: Session, request_id: str) -> list[bytes]:
    """Return the request's commitments in byte order: the leaves of its root. Raises Gone."""
    found = session.get(RequestKey, request_id)
    if found is None:
        raise shredded()
    if found.commitments is None:
        detail = "The request is older than receipts: its commitments were not kept, and its ids are erased."
        raise Gone(detail, code="commitments_not_kept", title="There is no receipt")
    stored = found.commitments
    return [stored[start : start + _LEAF_BYTES] for start in range(0, len(stored), _LEAF_BYTES)]


def shredded() -> Gone:
    """Return the error for a request whose key is gone."""
    detail = (
        "The request's key was shredded when its retention was over, so nothing can be linked to its commitments any "
        "more. Receipts given before stay valid; POST …/receipt/check still checks them."
    )
    return Gone(detail, code="request_key_shredded", title="The request's key was shredded")


def any_unwrapped(session: Session) -> bool:
    """Say whether a key is stored as an older version of the service stored it."""
    return session.scalar(select(RequestKey.request_id).where(RequestKey.wrapping.is_(None)).limit(1)) is not None


def wrap_stored(session: Session, wrapping_key: bytes) -> int:
    """Wrap some of the keys that an older version of the service stored as they were; return how many."""
    found = session.scalars(select(RequestKey).where(RequestKey.wrapping.is_(None)).limit(_CHUNK)).all()
    for each in found:
        key = each.key
        # Only where the row still is as it was read: two processes may start in one instant.
        session.execute(
            update(RequestKey)
            .where(RequestKey.request_id == each.request_id, RequestKey.wrapping.is_(None))
            .values(
                key=wrap(wrapping_key, key, each.request_id),
                wrapping=WRAPPING,
                commitments=_recomputed(session, each.request_id, key),
            )
            .execution_options(synchronize_session=False)
        )
    if found:
        traces.note(session, "request_keys")
    return len(found)


def _recomputed(session: Session, request_id: str, key: bytes) -> bytes | None:
    """Return the commitments of an older request, if all its ids are still there to compute them from."""
    ids = session.scalars(
        select(Sample.sample_id)
        .join(RequestSample, RequestSample.sample_id == Sample.id)
        .where(RequestSample.request_id == request_id, Sample.sample_id.is_not(None))
    )
    leaves = commitments.in_byte_order(key, [str(sample_id) for sample_id in ids])
    root = session.scalar(select(DeletionRequest.commitment_root).where(DeletionRequest.id == request_id))
    return b"".join(leaves) if commitments.merkle_root(leaves).hex() == root else None


def set_dates(session: Session, *, days: int) -> None:
    """Say until when to keep the keys of requests that are over and have no date yet."""
    ended = select(DeletionRequest.id, DeletionRequest.completed_at).where(DeletionRequest.status.in_(OVER)).subquery()
    found = session.execute(
        select(RequestKey.request_id, ended.c.completed_at)
        .join(ended, ended.c.id == RequestKey.request_id)
        .where(RequestKey.keep_until.is_(None))
    ).all()
    for request_id, completed_at in found:
        until = (completed_at or now()) + timedelta(days=days)
        session.execute(update(RequestKey).where(RequestKey.request_id == request_id).values(keep_until=until))


def expired(session: Session) -> list[str]:
    """Return the requests whose key is past its date, oldest first."""
    query = select(RequestKey.request_id).where(RequestKey.keep_until <= now())
    return list(session.scalars(query.order_by(RequestKey.request_id)))


def waiting(session: Session) -> bool:
    """Say whether a key needs a date or is past it: one cheap look before `set_dates` and `expired`."""
    over = DeletionRequest.status.in_(OVER)
    due = case((RequestKey.keep_until.is_(None), over), else_=RequestKey.keep_until <= now())
    query = select(RequestKey.request_id).join(DeletionRequest, DeletionRequest.id == RequestKey.request_id)
    return session.scalar(query.where(due).limit(1)) is not None


def shred(session: Session, request_id: str, *, reason: str) -> None:
    """Delete the request's key and commitments, and what else ids could be tried on.

    Raises NotFound, Conflict while the request is open, Gone.
    """
    request = requests.get(session, request_id)
    if request.status not in OVER:
        detail = f"The request is {request.status}; its key is needed until it is over."
        raise Conflict(detail, code="request_is_open")
    destroy(session, request)
    dataset = session.get_one(Dataset, request.dataset_id).name
    audit.record(
        session,
        "request_key.shredded",
        subject=f"deletion-request/{request.id}",
        payload={"reason": reason, "commitment_root": request.commitment_root},
        links={"request": request.id, "dataset": dataset},
    )


def destroy(session: Session, request: DeletionRequest) -> None:
    """Delete the key and what goes with it, without an entry; `shred` has one. Raises Gone."""
    deleted = delete(RequestKey).where(RequestKey.request_id == request.id).returning(func.length(RequestKey.key))
    if session.execute(deleted.execution_options(synchronize_session=False)).first() is None:
        raise shredded()
    traces.note(session, "request_keys")
    decision_notes.forget(session, request.id)
    _forget_beside(session, request)


def _forget_beside(session: Session, request: DeletionRequest) -> None:
    """Drop what the durable keys could still tie the request to an id by: its body's fingerprint, and a moment."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.request_id == request.id))
    if request.completed_at is not None:
        around = Suppression.created_at.between(request.completed_at - _AROUND, request.completed_at + _AROUND)
        same = update(Suppression).where(Suppression.dataset_id == request.dataset_id, around)
        session.execute(same.values(created_at=_LONG_AGO).execution_options(synchronize_session=False))
