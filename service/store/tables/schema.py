"""What a database says of its schema."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base


class SchemaCompatibility(Base):
    """The one row that says at which revision the schema is, and the head of the oldest code that works on it."""

    __tablename__ = "schema_compatibility"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[str] = mapped_column(String(32))
    oldest_code: Mapped[str] = mapped_column(String(32))
