"""The public halves of the keys that sign checkpoints and certificates."""

from datetime import datetime

from sqlalchemy import Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base
from service.store.types import now

_CURRENT = "not_after IS NULL AND revoked_at IS NULL"


class SigningKey(Base):
    """A key that may sign from ``not_before`` until ``not_after``, and never once it is revoked. None is deleted."""

    __tablename__ = "signing_keys"
    __table_args__ = (
        # One current key of each algorithm.
        Index(
            "uq_signing_keys_one_current",
            "algorithm",
            unique=True,
            sqlite_where=text(_CURRENT),
            postgresql_where=text(_CURRENT),
        ),
    )
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    algorithm: Mapped[str] = mapped_column(String(16))
    public_key: Mapped[bytes] = mapped_column(LargeBinary(32))
    not_before: Mapped[datetime] = mapped_column(default=now)
    not_after: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    reason: Mapped[str | None] = mapped_column(String(200))
