"""What is still to be scrubbed from the database's own files."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import BigId, now


class FileTrace(Base):
    """Something was erased or shredded: the files may hold its bytes until they are rewritten."""

    __tablename__ = "file_traces"
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    what: Mapped[str] = mapped_column(String(32))
    noted_at: Mapped[datetime] = mapped_column(default=now)
