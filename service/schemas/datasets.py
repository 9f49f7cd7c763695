"""Bodies of /v1/datasets."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from service.catalogue.sources import FILE_SOURCES, ROOT_SOURCES
from service.schemas.common import Body, Name


class Subset(Body):
    """Take a seeded, class-balanced part of the source's splits."""

    train: int | None = Field(None, ge=2)
    test: int | None = Field(None, ge=2)
    seed: int = Field(0, ge=0, lt=2**31)


class DatasetIn(Body):
    name: Name
    source: Literal["sklearn:digits", "torchvision:FashionMNIST", "npz"]
    root: str | None = Field(None, min_length=1, max_length=1000)
    path: str | None = Field(None, min_length=1, max_length=1000)
    subset: Subset | None = None

    @model_validator(mode="after")
    def _location_fits_the_source(self) -> "DatasetIn":
        if (self.root is not None) != (self.source in ROOT_SOURCES):
            raise ValueError(f"`root` is for {', '.join(ROOT_SOURCES)}, and needed there")
        if (self.path is not None) != (self.source in FILE_SOURCES):
            raise ValueError(f"`path` is for {', '.join(FILE_SOURCES)}, and needed there")
        return self


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
    created_at: datetime


class SampleOut(BaseModel):
    sample_id: str
    split: str
    label: int
