"""Bodies of /v1/jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class ProgressOut(BaseModel):
    phase: str | None
    done: int
    total: int


class RungOut(BaseModel):
    method: str
    verdict: str
    sentence: str | None = None
    evaluation_id: str | None = None
    seconds: float | None = None
    before_retry: bool = False


class CheckpointOut(BaseModel):
    epochs: int = Field(description="Epochs done, over all networks that the job trains.")
    at: datetime


class CheckpointErrorOut(BaseModel):
    code: str = Field(description="storage_full: there was no room.")
    detail: str
    times: int = Field(description="States of this attempt's training that were not kept.")


class JobOut(BaseModel):
    id: str
    kind: str
    status: str
    model: str | None
    dataset: str
    version: int | None
    method: str | None = Field(description="What was asked for.")
    rung: str | None = Field(description="The method being tried, or the last that was.")
    rungs: list[RungOut] = Field(description="Methods tried before, in order, and how each ended.")
    attempts: int
    progress: ProgressOut
    checkpoint: CheckpointOut | None = Field(description="Where its training would go on if it were broken off now.")
    checkpoint_error: CheckpointErrorOut | None = Field(
        description="Why the newest state of the training under way is not kept. It goes on all the same."
    )
    resumed_from: list[int] = Field(description="Epochs that were done each time its training went on; none: [].")
    error: dict[str, Any] | None
    evaluation_id: str | None
    approved_by: str | None
    not_before: datetime | None = Field(
        description="Until then the job waits: for more requests, or for storage that refused it (`error` says which)."
    )
    on_hold: bool = Field(description="It waits in the queue until its request is released.")
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
