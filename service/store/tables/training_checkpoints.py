"""What a broken-off training can be gone on with from."""

from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import BigId, now


class TrainingCheckpoint(Base):
    """The newest checkpoint of a job's training: which bytes, and of exactly which order.

    ``positions``: the places of the dataset's samples that could be read when the order was made (`position_sets`), so
    that it can be told without the order whether a sample is known; NULL: made by a release that did not say it.
    ``training_set``: their digest. ``epochs``: how many were done.
    """

    __tablename__ = "training_checkpoints"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigId)
    order_sha256: Mapped[str] = mapped_column(String(64))
    training_set: Mapped[str] = mapped_column(String(64))
    positions: Mapped[bytes | None] = mapped_column(LargeBinary)
    fence: Mapped[int]
    epochs: Mapped[int]
    ordered_at: Mapped[datetime]
    made_at: Mapped[datetime] = mapped_column(default=now)
