"""Which artifact store is this database's."""

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base


class OwnArtifactStore(Base):
    """The one row that names the store where this database's bytes lie; the store holds the same name.

    While ``adopted_at`` is NULL the name is only proposed, and no store may carry it yet.
    """

    __tablename__ = "own_artifact_store"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    store_id: Mapped[str] = mapped_column(String(40))
    adopted_at: Mapped[datetime | None]
