"""Keys, of callers and of calls."""

from datetime import datetime

from sqlalchemy import LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import now


class ApiKey(Base):
    """Whose a secret is. After a rotation the secret before it, ``previous``, is valid until its time."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    previous_sha256: Mapped[bytes | None] = mapped_column(LargeBinary(32), unique=True, index=True)
    previous_until: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    quotas: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A key's first answer. ``fingerprint`` is a keyed hash of the body; the answer holds no sample ID."""

    __tablename__ = "idempotency_keys"
    principal_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    request_id: Mapped[str] = mapped_column(String(40))
    answer: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=now)
