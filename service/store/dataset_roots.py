"""Keyed Merkle roots of a dataset before and after a request: which samples there were, told to nobody without the key.

A leaf is ``HMAC-SHA256(key, digest of the dataset ‖ position)`` of a sample that is not erased, in the order of
positions; the root is RFC 6962's. The key is durable, so that the root after one erasure is the root before the next.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime

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
    return Reader().around(session, request, master_key=master_key)


class Reader:
    """Reads a dataset once for many requests, which were completed before the first is asked about.

    It holds the leaves of one dataset; to be let go of soon, since nothing tells it of a change.
    """

    def __init__(self) -> None:
        self._of: tuple[str, str | None] | None = None
        self._leaves: dict[int, bytes] = {}
        self._erased: dict[int, tuple[datetime, str]] = {}
        self._last: tuple[list[bytes], str] = ([], merkle_root([]).hex())

    def around(self, session: Session, request: DeletionRequest, *, master_key: bytes) -> Roots:
        """Return the roots around a completed request. They are equal where it erased no sample from the index."""
        dataset = session.get_one(Dataset, request.dataset_id)
        if self._of != (dataset.id, dataset.digest):
            self._read(session, dataset, derive(master_key, _PURPOSE))
        mine = set(session.scalars(_named_by(request))) if _erases(request) else set()
        before = {sample: leaf for sample, leaf in self._leaves.items() if not self._gone_before(sample, request)}
        after = [leaf for sample, leaf in before.items() if sample not in mine]
        return Roots(
            before=self._root(list(before.values())),
            after=self._root(after),
            samples_before=len(before),
            samples_after=len(after),
        )

    def _read(self, session: Session, dataset: Dataset, key: bytes) -> None:
        rows = session.execute(
            select(Sample.id, Sample.position).where(Sample.dataset_id == dataset.id).order_by(Sample.position)
        )
        digest = bytes.fromhex(dataset.digest or "")
        self._leaves = {row.id: _leaf(key, digest, row.position) for row in rows}
        self._erased = {}
        for sample, completed_at, request_id in session.execute(_erasures(dataset)):
            if completed_at is not None:
                self._erased.setdefault(sample, (completed_at, request_id))
        self._of = (dataset.id, dataset.digest)

    def _gone_before(self, sample: int, request: DeletionRequest) -> bool:
        """Say whether another request had erased it when this one was completed; ids decide between equal moments."""
        erased, completed_at = self._erased.get(sample), request.completed_at
        return erased is not None and completed_at is not None and erased < (completed_at, request.id)

    def _root(self, leaves: list[bytes]) -> str:
        """Return the root, which is computed once where one request begins with what another left."""
        if leaves != self._last[0]:
            self._last = leaves, merkle_root(leaves).hex()
        return self._last[1]


def _leaf(key: bytes, digest: bytes, position: int) -> bytes:
    return hmac.digest(key, digest + position.to_bytes(8), "sha256")


def _erases(request: DeletionRequest) -> bool:
    return request.purpose == "privacy" and request.scope == "full"


def _named_by(request: DeletionRequest) -> Select[int]:
    return select(RequestSample.sample_id).where(RequestSample.request_id == request.id)


def _erasures(dataset: Dataset) -> Select[int, datetime | None, str]:
    """Select each sample of a request that erased it, when it was completed, and its id; the first comes first."""
    return (
        select(RequestSample.sample_id, DeletionRequest.completed_at, DeletionRequest.id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(
            DeletionRequest.dataset_id == dataset.id,
            DeletionRequest.status == RequestStatus.COMPLETED,
            DeletionRequest.purpose == "privacy",
            DeletionRequest.scope == "full",
        )
        .order_by(DeletionRequest.completed_at, DeletionRequest.id)
    )
