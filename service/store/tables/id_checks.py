"""How many ids each key had looked up on a day."""

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base


class IdCheck(Base):
    """A count by key and UTC day; no id, no dataset."""

    __tablename__ = "id_checks"
    principal_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    count: Mapped[int]
