"""Deletion requests and what they name."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import now

_WITHOUT_CERTIFICATE = "status = 'completed' AND certificate_id IS NULL"


class DeletionRequest(Base):
    """``mark_reached``: the share of the time to the due date, in percent, that was last announced as gone by.

    ``next_mark_at``: when the next one goes by; None once the request has ended or its due date is missed.
    ``approval_above_share``: the service's bound as it was when the request was accepted.
    """

    __tablename__ = "deletion_requests"
    __table_args__ = (
        Index(None, "status", "due_at"),
        Index(None, "dataset_id"),
        Index(None, "next_mark_at"),
        Index(None, "principal_id", "created_at"),
        # Holds only those that wait for a certificate, so that looking for them costs nothing.
        Index(
            "ix_deletion_requests_without_certificate",
            "status",
            "certificate_id",
            "completed_at",
            sqlite_where=text(_WITHOUT_CERTIFICATE),
            postgresql_where=text(_WITHOUT_CERTIFICATE),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    principal_id: Mapped[str] = mapped_column(String(40))
    purpose: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(64))
    method_options: Mapped[Json]
    models: Mapped[list[str] | None]
    scope: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    num_samples: Mapped[int]
    not_found: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    commitment_root: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    extended_by: Mapped[int] = mapped_column(default=0)
    mark_reached: Mapped[int] = mapped_column(default=0)
    next_mark_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    certificate_id: Mapped[str | None] = mapped_column(String(40))
    ended_at: Mapped[datetime | None]
    error: Mapped[Json | None]
    approval_above_share: Mapped[float | None]
    approved_by: Mapped[str | None] = mapped_column(String(40))


class RequestSample(Base):
    __tablename__ = "request_samples"
    __table_args__ = (Index(None, "sample_id"),)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    sample_id: Mapped[int] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(32))


class RequestKey(Base):
    """The random key behind a request's commitments; deleting the row makes them unlinkable.

    ``wrapping`` says how the key is encrypted; NULL: not yet, in a row older than wrapping. ``commitments`` are the
    leaves of the request's root, 32 bytes each, in byte order; NULL where a row is older and its ids are gone.
    ``keep_until``: when the key is to be shredded; NULL until the request is over.
    """

    __tablename__ = "request_keys"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    key: Mapped[bytes] = mapped_column(LargeBinary(60))
    wrapping: Mapped[str | None] = mapped_column(String(16))
    commitments: Mapped[bytes | None] = mapped_column(LargeBinary)
    keep_until: Mapped[datetime | None] = mapped_column(index=True)
