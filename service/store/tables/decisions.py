"""What people decided about deletion requests."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import now


class RequestDecision(Base):
    """An extension, a denial, a hold or a release. The log holds ``HMAC-SHA256(note_key, note)``, never the note."""

    __tablename__ = "request_decisions"
    __table_args__ = (Index(None, "request_id"),)
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"))
    kind: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(40))
    months: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(String(32))
    note: Mapped[str | None] = mapped_column(Text)
    note_key: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    time: Mapped[datetime] = mapped_column(default=now)
