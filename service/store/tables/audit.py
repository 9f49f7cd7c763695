"""The audit log."""

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import BigId


class AuditHead(Base):
    """The one row every appender locks, so that numbers have no gaps and no forks."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigId)


class AuditEntry(Base):
    """Append-only, by trigger. ``payload`` and ``time`` are the exact text that was hashed."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "action", "seq"), Index(None, "actor", "seq"))
    seq: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    time: Mapped[str] = mapped_column(String(32), index=True)
    actor: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(300))
    payload: Mapped[str] = mapped_column(Text)
    leaf_hash: Mapped[str] = mapped_column(String(64))


class AuditLink(Base):
    """Finds entries by what they concern. An index, not evidence: it is not hashed."""

    __tablename__ = "audit_links"
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    ref: Mapped[str] = mapped_column(String(200), primary_key=True)
    seq: Mapped[int] = mapped_column(BigId, ForeignKey("audit_entries.seq"), primary_key=True)
