"""Datasets, their samples, and what is remembered of those that were erased."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


class Dataset(Base):
    """A registered source of samples. ``digest`` covers ids, images and labels as they were indexed."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    source: Mapped[Json]
    state: Mapped[str] = mapped_column(String(16))
    num_samples: Mapped[int] = mapped_column(default=0)
    num_classes: Mapped[int] = mapped_column(default=0)
    image_shape: Mapped[list[int] | None]
    digest: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[Json | None]
    reindexed: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Sample(Base):
    """One row of a dataset. ``sample_id`` is personal data: it goes (NULL) when the sample is erased.

    ``source_row``: where the source had it when it was last re-indexed, -1: nowhere; NULL: at ``position``.
    """

    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sample_id"),
        Index(None, "dataset_id", "split", "label", "id"),
        # Not the state: while no index has it, changing it touches none of them (PostgreSQL).
        Index(None, "dataset_id", "pool"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    sample_id: Mapped[str | None] = mapped_column(Text)
    position: Mapped[int]
    source_row: Mapped[int | None]
    split: Mapped[str] = mapped_column(String(16))
    pool: Mapped[str] = mapped_column(String(16))
    label: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="live")


class Suppression(Base):
    """A keyed hash of an erased id: recognises it if it comes again, says nothing without the key."""

    __tablename__ = "suppressions"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    token: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
