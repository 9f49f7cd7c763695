"""Keyed Merkle roots of a dataset before and after a request: which samples there were, told to nobody without the key.

A leaf is ``HMAC-SHA256(key, digest of the dataset ‖ position)`` of a sample that is not erased, in the order of
positions; the root is RFC 6962's. The key is durable, so that the root after one erasure is the root before the next.
"""

import hmac
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from service.evidence.commitments import derive, merkle_root
from service.lifecycle import RequestStatus
from service.store.tables import Dataset, DeletionRequest, RequestSample, Sample

_PURPOSE = "dataset roots"


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Roots in hex, and how many samples each covers."""

    before: str
    after: str
    samples_before: int
    samples_after: int


def around(session: Session, request: DeletionRequest, *, master_key: bytes) -> Roots:
    """Return the roots around a completed request. They are equal where it erased no sample from the index."""
    dataset = session.get_one(Dataset, request.dataset_id)
    rows = session.execute(
        select(Sample.id, Sample.position).where(Sample.dataset_id == dataset.id).order_by(Sample.position)
    ).all()
    earlier = set(session.scalars(_erased_before(request)))
    mine = set(session.scalars(_named_by(request))) if _erases(request) else set()
    key = derive(master_key, _PURPOSE)
    digest = bytes.fromhex(dataset.digest or "")
    before = {row.id: _leaf(key, digest, row.position) for row in rows if row.id not in earlier}
    after = [leaf for sample, leaf in before.items() if sample not in mine]
    return Roots(
        before=merkle_root(list(before.values())).hex(),
        after=merkle_root(after).hex(),
        samples_before=len(before),
        samples_after=len(after),
    )


def _leaf(key: bytes, digest: bytes, position: int) -> bytes:
    return hmac.digest(key, digest + position.to_bytes(8), "sha256")


def _erases(request: DeletionRequest) -> bool:
    return request.purpose == "privacy" and request.scope == "full"


def _named_by(request: DeletionRequest) -> Select[int]:
    return select(RequestSample.sample_id).where(RequestSample.request_id == request.id)


def _erased_before(request: DeletionRequest) -> Select[int]:
    """Select what other requests had erased when this one was completed; ids decide between equal moments."""
    first = (DeletionRequest.completed_at < request.completed_at) | (
        (DeletionRequest.completed_at == request.completed_at) & (DeletionRequest.id < request.id)
    )
    return (
        select(RequestSample.sample_id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(
            DeletionRequest.dataset_id == request.dataset_id,
            DeletionRequest.status == RequestStatus.COMPLETED,
            DeletionRequest.purpose == "privacy",
            DeletionRequest.scope == "full",
            first,
        )
    )
