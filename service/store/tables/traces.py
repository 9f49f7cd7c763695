"""What is still to be scrubbed from the database's own files."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import BigId, now


class FileTrace(Base):
    """Something was erased or shredded: the files may hold its bytes until they are rewritten.

    No number is given twice: who has rewritten the files must not delete by its number a trace that came since.
    """

    __tablename__ = "file_traces"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    what: Mapped[str] = mapped_column(String(32))
    noted_at: Mapped[datetime] = mapped_column(default=now)
