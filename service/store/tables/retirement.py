"""What held the samples of requests and what became of it, who fetched weights, and who was told to give them up."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


class Residual(Base):
    """An artefact that held samples of a request, and each step of what became of it, oldest first.

    ``waiting``: something is still to be done. ``steps`` name the audit entry that speaks of each by a link of it.
    """

    __tablename__ = "residuals"
    __table_args__ = (
        UniqueConstraint("request_id", "artifact", "sha256"),
        Index(None, "artifact"),
        Index(None, "version_id"),
        Index(None, "waiting", "state"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"))
    kind: Mapped[str] = mapped_column(String(32))
    artifact: Mapped[str] = mapped_column(String(300))
    sha256: Mapped[str] = mapped_column(String(64))
    version_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    state: Mapped[str] = mapped_column(String(32))
    waiting: Mapped[bool]
    steps: Mapped[list[Json]]


class DatasetCache(Base):
    """A folder of decoded samples on a worker's disk. ``place`` names the disk; the folder tells it to the worker."""

    __tablename__ = "dataset_caches"
    place: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    machine: Mapped[str] = mapped_column(String(200))
    made_at: Mapped[datetime] = mapped_column(default=now)


class Recipient(Base):
    """A key that fetched bytes of a version: whom to tell when it is withdrawn. The log has each download."""

    __tablename__ = "recipients"
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    principal_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    downloads: Mapped[int]
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]


class Withdrawal(Base):
    """That a recipient was told to give a version up. ``lifted_at``: it serves again, so nobody need."""

    __tablename__ = "withdrawals"
    __table_args__ = (Index(None, "version_id"), Index(None, "principal_id", "id"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"))
    principal_id: Mapped[str] = mapped_column(String(40))
    reason: Mapped[str] = mapped_column(String(64))
    event_id: Mapped[str] = mapped_column(String(40))
    told_at: Mapped[datetime] = mapped_column(default=now)
    acknowledged_at: Mapped[datetime | None]
    lifted_at: Mapped[datetime | None]
