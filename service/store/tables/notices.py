"""What followers and receivers are told, and which process sees to a recurring duty."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


class Event(Base):
    """What a follower of a request or job is told; progress is read from the job itself."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "request_id", "id"), Index(None, "job_id", "id"))
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    request_id: Mapped[str | None] = mapped_column(String(40))
    job_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(32))
    data: Mapped[Json]
    time: Mapped[datetime] = mapped_column(default=now)


class WebhookEvent(Base):
    """Something that receivers elsewhere are to hear of. ``data`` holds no sample ID."""

    __tablename__ = "webhook_events"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    data: Mapped[Json]
    time: Mapped[datetime] = mapped_column(default=now)


class DutyLease(Base):
    """Which of several API processes sees to a recurring duty until when."""

    __tablename__ = "duty_leases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    until: Mapped[datetime]
