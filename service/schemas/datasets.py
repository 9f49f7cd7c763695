"""Bodies of /v1/datasets."""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from service.catalogue.sources import SOURCES, Source
from service.schemas.common import Body, Name, Whole

T = TypeVar("T")
Side = Annotated[Whole, Field(ge=1, le=1024)]


class Subset(Body):
    """Take a seeded, class-balanced part of the source's splits."""

    train: Whole | None = Field(None, ge=2)
    test: Whole | None = Field(None, ge=2)
    seed: Whole = Field(0, ge=0, lt=2**31)


class Decode(Body):
    """Say what all images are made: 8 bits per channel, of one size."""

    size: tuple[Side, Side] | None = Field(
        None, description="Height and width in pixels that every image is resized to; without it, all must be equal."
    )
    mode: Literal["rgb", "grey"] = "rgb"


class DatasetIn(Body):
    name: Name
    source: Source
    root: str | None = Field(None, min_length=1, max_length=1000, validate_default=True)
    path: str | None = Field(None, min_length=1, max_length=1000, validate_default=True)
    decode: Decode | None = None
    subset: Subset | None = None

    @field_validator("root", "path", "decode")
    @classmethod
    def _is_for_the_source(cls, value: T, info: ValidationInfo) -> T:
        source, field = info.data.get("source"), str(info.field_name)
        if source is None:  # a fault of its own
            return value
        takers = [spec.id for spec in SOURCES.values() if field in spec.fields()]
        if value is not None and source not in takers:
            raise ValueError(f"`{field}` is for {', '.join(takers)} alone")
        if value is None and source in takers and field != "decode":
            raise ValueError(f"`{field}` is needed for {source}")
        return value


class DatasetOut(BaseModel):
    name: str
    source: str
    state: Literal["indexing", "ready", "failed"]
    num_samples: int
    num_classes: int
    image_shape: list[int] | None
    splits: dict[str, int]
    digest: str | None
    error: dict[str, Any] | None
    job: dict[str, str] | None = None
    reindexed: dict[str, Any] | None = Field(
        None, description="The last re-indexing: when, and how many stayed, came, returned, vanished or stay erased."
    )
    created_at: datetime


class SampleOut(BaseModel):
    sample_id: str
    split: str
    label: int
