"""Bodies of /v1/api-keys."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from service.auth import SCOPES
from service.schemas.common import Body, Moment, Name, Whole
from service.store.keys import MAX_OVERLAP_SECONDS, OVERLAP_SECONDS

PerDay = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class QuotasIn(Body):
    """What a key may ask for within any 24 hours; null: what the service's settings say."""

    requests_per_day: PerDay | None = None
    sample_ids_per_day: PerDay | None = None


class KeyIn(Body):
    name: Name
    scopes: list[str] = Field(min_length=1)
    expires_at: Moment | None = None
    quotas: QuotasIn = Field(default_factory=QuotasIn)

    @field_validator("scopes")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        unknown = sorted(set(value) - SCOPES)
        if unknown:
            raise ValueError(f"unknown scopes {unknown}; known: {', '.join(sorted(SCOPES))}")
        return value

    @field_validator("expires_at")
    @classmethod
    def _to_come(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise ValueError("expires_at has passed; name a moment to come, or null for none")
        return value


class KeyRotateIn(Body):
    overlap_seconds: Whole = Field(
        OVERLAP_SECONDS,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="How long the secret so far stays valid beside the new one.",
    )


class KeyOut(BaseModel):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    quotas: dict[str, int] | None = Field(description="The key's own quotas; others are those of the settings.")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute: written at most once in one.")
    previous_until: datetime | None = Field(description="Until when the secret before the last rotation is valid.")
    revoked_at: datetime | None


class KeyCreated(KeyOut):
    key: str = Field(description="Shown once; only a hash of it is stored.")
