"""Bodies of /v1/jobs."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class ProgressOut(BaseModel):
    phase: str | None
    done: int
    total: int


class JobOut(BaseModel):
    id: str
    kind: str
    status: str
    model: str | None
    dataset: str
    version: int | None
    method: str | None
    attempts: int
    progress: ProgressOut
    error: dict[str, Any] | None
    evaluation_id: str | None
    due_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
