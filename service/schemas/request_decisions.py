"""Bodies of the decisions about a deletion request."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from service.deadlines import MAX_EXTENSION_MONTHS
from service.schemas.common import Body, Whole

MAX_NOTE_LENGTH = 500
Note = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NOTE_LENGTH, pattern=r"^[^\x00]*$")
]
DenialReason = Literal[
    "suspected_fraud",
    "insufficient_verification",
    "no_match",
    "claim_not_covered",
    "outside_jurisdiction",
    "too_many_requests",
    "legal_obligation",
    "other",
]


class ExtensionIn(Body):
    months: Whole = Field(ge=1, le=MAX_EXTENSION_MONTHS, description="Months more, counted from `received_at`.")
    reason: Note = Field(description="Why; kept beside the request, never in the log. It may name no sample.")


class DenialIn(Body):
    reason: DenialReason
    note: Note | None = Field(None, validate_default=True, description="Required where the reason is `other`.")

    @field_validator("note")
    @classmethod
    def _other_is_explained(cls, note: str | None, others: ValidationInfo) -> str | None:
        if note is None and others.data.get("reason") == "other":
            raise PydanticCustomError("note_required", "the reason `other` needs a note that says what it is")
        return note


class HoldIn(Body):
    reason: Note = Field(description="Why; kept beside the request, never in the log. It may name no sample.")


class DecisionOut(BaseModel):
    kind: Literal["extension", "denial", "hold", "release"]
    time: datetime
    by: str = Field(description="The key that decided.")
    months: int | None
    reason: str | None = Field(description="The code of a denial.")
    note: str | None = Field(description="What was written; the log holds its commitment alone.")
    note_key: str | None = Field(description="Hexadecimal; the commitment is HMAC-SHA256(note_key, note).")

    @field_validator("note_key", mode="before")
    @classmethod
    def _in_hexadecimal(cls, key: Any) -> Any:
        return key.hex() if isinstance(key, bytes) else key
