"""Bodies of /v1/models and their versions."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from service.catalogue.policy import Policy
from service.catalogue.recipe import Recipe
from service.schemas.common import Body, Name


class ModelIn(Body):
    name: Name
    dataset: Name
    architecture: str = Field(max_length=64)
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    task: Literal["classification"] = "classification"
    recipe: Recipe | None = Field(None, description="How originals are trained; without it, upload weights.")
    policy: Policy = Policy()


class ModelOut(BaseModel):
    name: str
    dataset: str
    architecture: str
    architecture_options: dict[str, Any]
    task: str
    recipe: dict[str, Any] | None
    policy: dict[str, Any]
    created_at: datetime


class PreparedOut(BaseModel):
    job: dict[str, str]
    models: int = Field(description="How many reference models are trained.")


class TrainIn(Body):
    train: Literal[True]


class VersionOut(BaseModel):
    model: str
    number: int
    state: str
    role: str
    origin: str
    parent: int | None
    sha256: str
    size_bytes: int
    job_id: str | None
    evaluation_id: str | None
    method: str | None
    training_samples: int
    training_seconds: float | None
    dataset_digest: str | None
    error: dict[str, Any] | None
    created_at: datetime
    retired_at: datetime | None
    purged_at: datetime | None
    job: dict[str, str] | None = None
