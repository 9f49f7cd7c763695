"""Keyed Merkle roots of a dataset before and after a request: which samples there were, told to nobody without the key.

A leaf is ``HMAC-SHA256(key, digest of the dataset ‖ position)`` of a sample that is not erased, in the order of
positions; the root is RFC 6962's. The key is durable, so that the root after one erasure is the root before the next.
"""

import hmac
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from service.evidence.commitments import derive, merkle_leaf, merkle_root_of
from service.lifecycle import RequestStatus
from service.store.tables import AuditEntry, AuditLink, Dataset, DeletionRequest, RequestSample, Sample

_PURPOSE = "dataset roots"
# Where a completed request stands among the others: its entry's number, and, before there was a log, when it was.
_Place = tuple[int, datetime, str]
_NEVER = datetime.min.replace(tzinfo=UTC)


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

    It holds the leaves' hashes of one dataset; to be let go of soon, since nothing tells it of a change.
    """

    def __init__(self) -> None:
        self._of: tuple[str, str | None] | None = None
        self._samples: list[int] = []
        self._hashes: list[bytes] = []
        self._numbers: dict[str, int] = {}
        self._erased: list[tuple[_Place, int]] = []
        self._last: tuple[list[bytes], str] = ([], merkle_root_of([]).hex())

    def around(self, session: Session, request: DeletionRequest, *, master_key: bytes) -> Roots:
        """Return the roots around a completed request. They are equal where it erased no sample from the index."""
        dataset = session.get_one(Dataset, request.dataset_id)
        if self._of != (dataset.id, dataset.digest):
            self._read(session, dataset, derive(master_key, _PURPOSE))
        gone = self._gone_before(request)
        mine = gone.union(session.scalars(_named_by(request))) if _erases(request) else gone
        before = self._without(gone)
        after = before if mine == gone else self._without(mine)
        return Roots(
            before=self._root(before),
            after=self._root(after),
            samples_before=len(before),
            samples_after=len(after),
        )

    def _read(self, session: Session, dataset: Dataset, key: bytes) -> None:
        rows = session.execute(
            select(Sample.id, Sample.position).where(Sample.dataset_id == dataset.id).order_by(Sample.position)
        ).all()
        digest = bytes.fromhex(dataset.digest or "")
        self._samples = [row.id for row in rows]
        self._hashes = [merkle_leaf(_leaf(key, digest, row.position)) for row in rows]
        self._numbers = {row.ref: row.seq for row in session.execute(_completions(dataset))}
        first: dict[int, _Place] = {}
        for sample, completed_at, request_id in session.execute(_erasures(dataset)):
            if completed_at is not None:
                place = self._place(request_id, completed_at)
                first[sample] = min(first.get(sample, place), place)
        self._erased = sorted((place, sample) for sample, place in first.items())
        self._of = (dataset.id, dataset.digest)

    def _gone_before(self, request: DeletionRequest) -> set[int]:
        """Return what others had erased when this one was completed, in the order of the log."""
        if request.completed_at is None:
            return set()
        earlier = bisect_left(self._erased, (self._place(request.id, request.completed_at), 0))
        return {sample for _, sample in self._erased[:earlier]}

    def _place(self, request_id: str, completed_at: datetime) -> _Place:
        """Return a place that goes by no clock: one may have been set back between two requests."""
        number = self._numbers.get(request_id)
        return (-1, completed_at, request_id) if number is None else (number, _NEVER, request_id)

    def _without(self, gone: set[int]) -> list[bytes]:
        return [found for sample, found in zip(self._samples, self._hashes, strict=True) if sample not in gone]

    def _root(self, hashes: list[bytes]) -> str:
        """Return the root, which is computed once where one request begins with what another left."""
        if hashes != self._last[0]:
            self._last = hashes, merkle_root_of(hashes).hex()
        return self._last[1]


def _leaf(key: bytes, digest: bytes, position: int) -> bytes:
    return hmac.digest(key, digest + position.to_bytes(8), "sha256")


def _erases(request: DeletionRequest) -> bool:
    return request.purpose == "privacy" and request.scope == "full"


def _named_by(request: DeletionRequest) -> Select[int]:
    return select(RequestSample.sample_id).where(RequestSample.request_id == request.id)


def _erasures(dataset: Dataset) -> Select[int, datetime | None, str]:
    """Select each sample of a request that erased it, when it was completed, and its id."""
    return (
        select(RequestSample.sample_id, DeletionRequest.completed_at, DeletionRequest.id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(
            DeletionRequest.dataset_id == dataset.id,
            DeletionRequest.status == RequestStatus.COMPLETED,
            DeletionRequest.purpose == "privacy",
            DeletionRequest.scope == "full",
        )
    )


def _completions(dataset: Dataset) -> Select[str, int]:
    """Select each completed request of the dataset, and the number of the log's last entry that says so.

    One that had been completed before a restore from an older backup was completed again.
    """
    completed = select(DeletionRequest.id).where(
        DeletionRequest.dataset_id == dataset.id, DeletionRequest.status == RequestStatus.COMPLETED
    )
    return (
        select(AuditLink.ref, func.max(AuditEntry.seq).label("seq"))
        .join(AuditEntry, AuditEntry.seq == AuditLink.seq)
        .where(AuditLink.kind == "request", AuditEntry.action == "request.completed", AuditLink.ref.in_(completed))
        .group_by(AuditLink.ref)
    )
