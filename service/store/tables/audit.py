"""The audit log."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import BigId, now


class AuditHead(Base):
    """The one row every appender locks, so that numbers have no gaps and no forks. ``time`` is the last entry's."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigId)
    time: Mapped[str] = mapped_column(String(32), default="")


class AuditEntry(Base):
    """Append-only, by trigger. ``payload`` and ``time`` are the exact text that was hashed."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "action", "seq"), Index(None, "actor", "seq"), Index(None, "time", "seq"))
    seq: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    time: Mapped[str] = mapped_column(String(32))
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


class AuditTree(Base):
    """How many entries the tiles cover: one row, locked by whoever adds to them."""

    __tablename__ = "audit_tree"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigId)


class AuditTile(Base):
    """Up to 256 Merkle hashes side by side (C2SP tlog-tiles). All follow from the entries."""

    __tablename__ = "audit_tiles"
    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    index: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    hashes: Mapped[bytes] = mapped_column(LargeBinary(8192))


class AuditCheckpoint(Base):
    """A signed commitment to the first ``size`` entries. Append-only, by trigger."""

    __tablename__ = "audit_checkpoints"
    size: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    note: Mapped[str] = mapped_column(Text)
    key_id: Mapped[str] = mapped_column(String(64), ForeignKey("signing_keys.key_id"))
    time: Mapped[datetime] = mapped_column(default=now)
