"""Bodies of /v1/models and their versions."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.catalogue.policy import Policy
from service.catalogue.preparations import OnDemand
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from service.schemas.common import Body, Name

_EXAMPLES: list[Any] = [
    {
        "name": "reader",
        "dataset": "digits",
        "architecture": "small_cnn",
        "recipe": {"epochs": 15, "optimizer": "sgd", "lr": 0.1, "schedule": "one_cycle"},
    },
    {"name": "painter", "dataset": "digits", "architecture": "ddpm_unet_small", "task": "generation", "recipe": {}},
]


class ModelIn(Body):
    model_config = ConfigDict(json_schema_extra={"examples": _EXAMPLES})

    name: Name
    dataset: Name
    architecture: str = Field(max_length=64)
    architecture_options: dict[str, Any] = Field(default_factory=dict)
    task: Task | None = Field(
        None, description="What the model is for. Null: its architecture's task, the only one it has."
    )
    recipe: Recipe | None = Field(
        None,
        description="How originals are trained; without it, upload weights. Fields that are left out are as the "
        "architecture has them where it has defaults of its own, as those for generation do.",
    )
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


class PrepareIn(Body):
    prepare: list[OnDemand] = Field(min_length=1, max_length=3, description="What to make of the version.")

    @field_validator("prepare")
    @classmethod
    def each_once(cls, prepare: list[OnDemand]) -> list[OnDemand]:
        """Refuse one that is named twice."""
        if len(set(prepare)) < len(prepare):
            raise ValueError("a preparation is named twice")
        return prepare


class PreparingOut(BaseModel):
    job: dict[str, str]
    prepare: list[str]


class PreparationOut(BaseModel):
    name: str
    samples: int = Field(description="How many samples it was made from.")
    size_bytes: int
    seconds: float = Field(description="What it took to make it.")
    sha256: str
    made_at: datetime


class TrainIn(Body):
    train: Literal[True]


class TrainingOut(BaseModel):
    job: dict[str, str]
    model: str
    state: Literal["queued"]


class VersionOut(BaseModel):
    model: str
    task: str = Field(description="What the model is for.")
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
    prepared: list[PreparationOut] = Field(default_factory=list, description="What was made of it before any request.")
