"""Bodies of /v1/deletion-requests."""

from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from service.schemas.common import Body, Moment, Name
from service.schemas.request_decisions import DecisionOut

MAX_ID_LENGTH = 512


def _plausible(moment: datetime) -> datetime:
    if moment.year < 1970:
        raise PydanticCustomError("received_at_too_early", "received_at lies before 1970")
    if moment > datetime.now(moment.tzinfo):
        detail = "received_at is when the person asked; it cannot lie in the future"
        raise PydanticCustomError("received_at_in_future", detail)
    return moment


SampleId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH, pattern=r"^[^\x00]*$")]


class DeletionRequestIn(Body):
    dataset: Name
    sample_ids: list[SampleId] = Field(description="The samples to erase; each once.")
    purpose: Literal["privacy", "bias", "confusion"] = "privacy"
    method: str = Field("auto", max_length=64)
    method_options: dict[str, Any] = Field(default_factory=dict)
    models: list[Name] | None = Field(None, min_length=1, max_length=1000)
    unresolved: Literal["reject", "report"] = "reject"
    received_at: Annotated[Moment, AfterValidator(_plausible)] | None = None


class RequestJobOut(BaseModel):
    id: str
    model: str
    status: str
    version: int | None
    evaluation_id: str | None
    error: dict[str, Any] | None = Field(None, description="Why it is stuck, or waits to be tried again; what to do.")


class DeletionRequestOut(BaseModel):
    id: str
    dataset: str
    status: str
    purpose: str
    method: str
    method_options: dict[str, Any] = Field(
        description="As given, filled in with defaults but for options that tasks differ in, which each model's job "
        "fills in."
    )
    scope: Literal["full", "partial"]
    received_at: datetime
    due_at: datetime | None = Field(description="The end of a day in the controller's zone. Null but for `privacy`.")
    extended_by: int = Field(0, description="Months by which the due date was put off.")
    overdue: bool = Field(
        default=False, description="The due date passed before the request's end, or has passed by now."
    )
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    certificate_id: str | None = Field(None, description="Of its certificate, once that is issued.")
    ended_at: datetime | None = Field(None, description="When it was completed, denied or cancelled.")
    num_samples: int
    commitment_root: str
    outcomes: dict[str, int] = Field(
        description=(
            "How many of the named samples are `pending`, `erased` from every model trained on them, "
            "`erased_not_trained_on` (no model was), `already_erased` before, or `not_found`. A request that names "
            "`models` says nothing of the others: its samples end as `erased_from_named_models` or "
            "`not_trained_on_by_named_models`."
        )
    )
    approved_by: str | None = Field(None, description="The key that approved it, where that was needed.")
    jobs: list[RequestJobOut]
    error: dict[str, Any] | None = Field(
        description="Why the request is on hold and what to do; `causes` has all reasons where there are several."
    )
    forecast_at: datetime | None = Field(
        None,
        description=(
            "When its jobs will probably be done, by the queue and by how long past jobs of the model took. Only where "
            "one request is asked for; null where nothing is known, where no worker lives and while the request waits "
            "for a person."
        ),
    )
    forecast_overdue: bool = Field(default=False, description="The forecast lies after the due date.")
    decisions: list[DecisionOut] | None = Field(
        None, description="Extensions, denials, holds and releases. Only where one request is asked for."
    )
    unresolved_sample_ids: list[str] | None = None


def repeated(sample_ids: list[str]) -> list[str]:
    """Return the ids named more than once."""
    return [sample_id for sample_id, count in Counter(sample_ids).items() if count > 1]
