"""The answer of a preview: what a deletion request would do."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field


def _encodable(value: Any) -> Any:
    """Write half a surrogate pair as text does: what a client sent may hold one, and UTF-8 cannot carry it."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


class FaultOut(BaseModel):
    pointer: Annotated[str, BeforeValidator(_encodable)]
    code: str
    value: Annotated[Any, BeforeValidator(_encodable)] = None
    detail: Annotated[str | None, BeforeValidator(_encodable)] = None


class PreviewCounts(BaseModel):
    named: int
    found: int
    not_found: int = Field(description="Neither in the dataset nor, as far as this key may know, erased from it.")
    already_erased: int = Field(description="0 to a key that may not read datasets: to it they were not found.")
    trained_on: int = Field(description="Of those found, how many some live version was trained on.")
    not_trained_on: int


class ClassShareOut(BaseModel):
    label: int
    samples: int
    of: int
    share: float


class PreviewMethod(BaseModel):
    method: str
    lacks: str | None = Field(description="What keeps it from being used on this model; null: nothing.")


class ForecastOut(BaseModel):
    seconds: float | None
    basis: Literal["past_jobs", "training", "none"] = Field(
        description="`past_jobs`: the median of this model's erasure jobs, by the same method where there were any. "
        "`training`: what training the version took, which a retraining would take again. A forecast of the work "
        "alone: waiting in the queue is not in it."
    )
    jobs: int = Field(0, description="How many jobs the median is of.")


class PreviewModel(BaseModel):
    model: str
    versions: list[int] = Field(description="Live versions that were trained on some of the samples; they go.")
    parent: int = Field(description="The version that would be worked on: the newest of them.")
    samples: int = Field(description="How many of the named samples it was trained on.")
    training_samples: int
    share: float = Field(description="Of its training set.")
    classes: list[ClassShareOut] | None = Field(
        description="Each class of its training set; null to a key that may not read datasets, to which they would "
        "tell of a sample's label."
    )
    scenario: Literal["subset", "class", "retain_gone"]
    methods: list[PreviewMethod] = Field(description="In the order in which they would be tried.")
    stops_serving: Literal["on_success", "immediately"]
    approval_reasons: list[str]
    forecast: ForecastOut


class PreviewOut(BaseModel):
    acceptable: bool = Field(description="Whether the same request would be accepted now.")
    faults: list[FaultOut] = Field(description="All for which it would be refused, at most 100.")
    faults_total: int
    dataset: str
    purpose: str
    method: str
    scope: Literal["full", "partial"]
    received_at: datetime
    due_at: datetime | None
    counts: PreviewCounts
    models: list[PreviewModel] = Field(description="Those with a live version that was trained on some of the samples.")
    approval_needed: bool = Field(description="Whether it would wait for somebody's approval before any work.")
    does_not_prove: str = (
        "A forecast from what is stored now: other requests, new versions or a change of policy may change each line "
        "before the request is made. Whether a method will pass its gate is known only when it has run."
    )
