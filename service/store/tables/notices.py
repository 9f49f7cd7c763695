"""What followers and receivers are told, and which process sees to a recurring duty."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, UniqueConstraint, text
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
    """Something that receivers elsewhere are to hear of. ``data`` holds no sample ID.

    ``log_size``: how many entries the log had with those of the event's own transaction; NULL in an earlier release's.
    """

    __tablename__ = "webhook_events"
    __table_args__ = (
        Index(None, "time"),
        Index(
            "ix_webhook_events_waiting",
            "time",
            sqlite_where=text("NOT fanned_out"),
            postgresql_where=text("NOT fanned_out"),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(64))
    data: Mapped[Json]
    time: Mapped[datetime] = mapped_column(default=now)
    fanned_out: Mapped[bool] = mapped_column(default=False, server_default=text("false"))
    log_size: Mapped[int | None] = mapped_column(BigInteger)


class WebhookEndpoint(Base):
    """Where a key wants to be told. Secrets are sealed with a key derived from the master key: signing needs them."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(40), ForeignKey("api_keys.id"), index=True)
    url: Mapped[str] = mapped_column(String(2048))
    events: Mapped[list[str]]
    description: Mapped[str] = mapped_column(String(500))
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None] = mapped_column(String(32))
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebhookDelivery(Base):
    """One event on its way to one endpoint. ``next_at`` is set exactly while it is pending."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index(None, "endpoint_id", "id"),
        Index(None, "endpoint_id", "state", "id"),
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_id",
            "next_at",
            sqlite_where=text("next_at IS NOT NULL"),
            postgresql_where=text("next_at IS NOT NULL"),
        ),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    event_id: Mapped[str] = mapped_column(String(40), ForeignKey("webhook_events.id", ondelete="CASCADE"))
    endpoint_id: Mapped[str] = mapped_column(String(40), ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    claims: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=now)
    attempted_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class DutyLease(Base):
    """Which of several API processes sees to a recurring duty until when."""

    __tablename__ = "duty_leases"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(200))
    until: Mapped[datetime]
