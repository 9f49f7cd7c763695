"""Bodies of /v1/methods, /v1/metrics and /v1/architectures."""

from collections.abc import Mapping
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
    needs_class_condition: bool = Field(
        description="It teaches a sample another class: it works on no model that draws without being told a class, "
        "nor where there is one class alone."
    )
    for_purpose: dict[str, dict[str, Any]] = Field(description="Options that a purpose prefers to the defaults.")
    for_task: dict[str, dict[str, Any]] = Field(
        description="Options that models of a task prefer to the defaults, unless a preset of the paper is named."
    )
    purposes: list[str]
    tasks: list[str] = Field(description="What models must be for: the tasks it has a meaning for.")
    not_for: Mapping[str, str] = Field(description="Of each other task, why not, as a sentence's end.")
    summary: str
    does_not_prove: str
    parameters: dict[str, Any]


class LadderOut(BaseModel):
    task: str
    purpose: str
    scenario: str = Field(
        description="class: of no forgotten label does anything stay. retain_gone: nothing but the forget set may be "
        "read. subset: all else."
    )
    methods: list[str]
    options: Mapping[str, Mapping[str, Any]] = Field(description="Of methods that do not run by their defaults.")
    because: str


class MethodsOut(BaseModel):
    items: list[MethodOut]
    ladders: list[LadderOut] = Field(description="What `auto` tries in which order, unless the policy says otherwise.")


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
    tasks: list[str] = Field(description="What models must be for to be measured by it.")


class ArchitectureOut(BaseModel):
    id: str
    title: str
    task: str = Field(description="What a model with it is for.")
    summary: str
    min_image_size: int = Field(description="Smallest height and width in pixels that it takes by default.")
    image_sizes: list[int] | None = Field(description="Sides of the only, square, images that it takes; null: all.")
    options: dict[str, Any] = Field(description="JSON Schema of `architecture_options`.")
    recipe: dict[str, Any] = Field(description="A recipe that says nothing, as it is filled in for it.")
