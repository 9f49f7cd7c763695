"""Bodies of /v1/webhooks."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StringConstraints

from service.schemas.common import Body, Moment, Whole

MOST_OVERLAP_SECONDS = 7 * 86_400
DAY_SECONDS = 86_400

Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Description = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]


def _past(moment: datetime) -> datetime:
    if moment > datetime.now(moment.tzinfo):
        raise ValueError("since lies in the future; there is nothing to replay yet")
    return moment


class WebhookIn(Body):
    url: Url
    events: list[str] | None = Field(
        None, min_length=1, max_length=100, description='Types from `GET /v1/webhooks/events`; none, or `["*"]`: all.'
    )
    description: Description = ""
    secret: str | None = Field(
        None, max_length=200, description="`whsec_` and 24 to 64 bytes in base64; none: made here."
    )


class WebhookPatch(Body):
    """What is named is replaced."""

    url: Url | None = None
    events: list[str] | None = Field(None, min_length=1, max_length=100)
    description: Description | None = None
    enabled: StrictBool | None = None


class WebhookOut(BaseModel):
    id: str
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_reason: str | None = Field(
        description="`by_request`, `receiver_gone` (it answered 410), `changed_before_restore`."
    )
    owner: str = Field(description="The API key it belongs to.")
    previous_secret_until: datetime | None = Field(description="Until when the secret before signs as well.")
    created_at: datetime


class WebhookCreated(WebhookOut):
    secret: str = Field(description="Shown once; stored encrypted.")


class RotateIn(Body):
    secret: str | None = Field(None, max_length=200)
    overlap_seconds: Whole = Field(
        DAY_SECONDS,
        ge=0,
        le=MOST_OVERLAP_SECONDS,
        description="How long the secret until now signs beside the new one.",
    )


class SecretOut(BaseModel):
    secret: str = Field(description="Shown once; stored encrypted.")
    previous_secret_until: datetime | None


class DeliveryErrorOut(BaseModel):
    code: str
    detail: str


class DeliveryOut(BaseModel):
    id: str
    event_id: str = Field(description="The `webhook-id` header of every attempt.")
    type: str
    state: Literal["pending", "delivered", "dead"]
    attempts: int
    next_attempt_at: datetime | None
    last_status: int | None = Field(description="The HTTP status of the last answer.")
    error: DeliveryErrorOut | None = Field(description="Why the last attempt failed.")
    created_at: datetime
    attempted_at: datetime | None
    finished_at: datetime | None


class ReplayIn(Body):
    since: Annotated[Moment, AfterValidator(_past)]
    include_delivered: StrictBool = Field(default=True, description="False: only what was not delivered.")


class ReplayOut(BaseModel):
    replayed: int
    next_since: datetime | None = Field(description="Where there is more than one call may bring: ask again from here.")


class EventTypeOut(BaseModel):
    name: str
    summary: str
    scope: str = Field(description="What the webhook's key must be allowed to read.")
    addressed: bool = Field(
        description="Goes to the key named by `recipient`, and to auditors who asked for all events."
    )
    payload_schema: dict[str, Any] = Field(description="JSON Schema (2020-12) of the body that is sent.")


class EventTypesOut(BaseModel):
    items: list[EventTypeOut]
