"""What a restored service must learn again: erasures on their way to the journal, and restores that are not over."""

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


class ErasedToken(Base):
    """A suppression that is not in the erasure journal yet; it goes once it is.

    No number is given twice: who has written some into the journal must not delete by their numbers what came since.
    """

    __tablename__ = "erased_tokens"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    dataset_id: Mapped[str] = mapped_column(String(40))
    token: Mapped[bytes] = mapped_column(LargeBinary(32))


class JournalHead(Base):
    """The one row that names the newest segment of the erasure journal, by its number and MAC."""

    __tablename__ = "journal_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    journal: Mapped[str] = mapped_column(String(40))
    number: Mapped[int] = mapped_column(BigId)
    mac: Mapped[str] = mapped_column(String(64))


class Restore(Base):
    """That the database came from a backup. While ``finished_at`` is NULL later erasures are still to be replayed.

    ``log_size``: the entries of the audit log that came with the backup.
    """

    __tablename__ = "restores"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    backup_id: Mapped[str] = mapped_column(String(40))
    backup_at: Mapped[datetime]
    log_size: Mapped[int] = mapped_column(BigId)
    restored_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    found: Mapped[Json | None]
