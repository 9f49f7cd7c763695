"""Bodies of /v1/api-keys."""

from datetime import datetime

from pydantic import BaseModel, Field, field_validator

from service.auth import SCOPES
from service.schemas.common import Body, Moment, Name


class KeyIn(Body):
    name: Name
    scopes: list[str] = Field(min_length=1)
    expires_at: Moment | None = None

    @field_validator("scopes")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        unknown = sorted(set(value) - SCOPES)
        if unknown:
            raise ValueError(f"unknown scopes {', '.join(unknown)}; known: {', '.join(sorted(SCOPES))}")
        return value


class KeyOut(BaseModel):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class KeyCreated(KeyOut):
    key: str = Field(description="Shown once; only a hash of it is stored.")
