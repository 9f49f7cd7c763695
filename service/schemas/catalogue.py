"""Bodies of /v1/methods and /v1/metrics."""

from typing import Any

from pydantic import BaseModel, Field


class MethodOut(BaseModel):
    id: str
    title: str
    paper: str
    guarantee: str
    fidelity: str
    needs: list[str]
    uses: list[str] = Field(description="What it takes from a version's preparations where they are there.")
    instead_of_retain: str | None = Field(description="The preparation with which it reads no retained sample.")
    needs_sharded_recipe: bool = Field(description="It works on models alone whose recipe has `sisa`.")
    purposes: list[str]
    summary: str
    does_not_prove: str
    parameters: dict[str, Any]


class MetricOut(BaseModel):
    id: str
    title: str
    formula: str
    source: str
    basis: str
    direction: str
    ideal: float | None
    kind: str
    does_not_prove: str
    when: str
