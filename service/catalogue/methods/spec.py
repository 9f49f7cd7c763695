"""What is known of every method before it runs: its needs, its promise, and the base of its options."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.catalogue.preparations import PreparationName
from service.catalogue.recipe import MAX_SEED
from service.catalogue.tasks import Task

Purpose = Literal["privacy", "bias", "confusion"]
Need = Literal["forget", "forget_labels", "retain", "validation", "recipe"]
APPROXIMATE = (
    "Not a proof of removal: influence of the forget set may remain in the weights in ways the reported "
    "attacks do not see."
)

NEEDS_CLASS_CONDITION = "it teaches a sample another class, and the model is told no class"
"""Why a method cannot work on a network that draws without being told a class, as a sentence's end."""
NEEDS_ANOTHER_CLASS = "it teaches a sample another class, and the dataset has no other"
"""Why it cannot work where there is one class alone, as a sentence's end."""


def no_other_class(*, class_condition: bool, classes: int) -> str | None:
    """Say why no sample can be taught another class, as a sentence's end; None where it can.

    ``classes``: of the dataset, 0 while it is not indexed and nobody knows.
    """
    if not class_condition:
        return NEEDS_CLASS_CONDITION
    return NEEDS_ANOTHER_CLASS if classes == 1 else None


class MethodConfig(BaseModel):
    """Base of every method's options. Fields that a request names override those of the preset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Seed of every random choice; drawn by the service if left out."
    )

    @model_validator(mode="before")
    @classmethod
    def fill_from_preset(cls, given: object) -> object:
        """Lay the options given over the values of the preset named."""
        if not isinstance(given, Mapping):
            return given
        return {**cls.PRESETS.get(str(given.get("preset")), {}), **given}


@dataclass(frozen=True, kw_only=True)
class Available:
    """What there is of a model: its task, why it can be taught no other class, a recipe, one that trains it in shards,
    its retain set, a selection pool, and what was prepared."""

    task: Task = Task.CLASSIFICATION
    no_other_class: str | None = None
    recipe: bool = True
    sharded: bool = False
    retain: bool = True
    selection: bool = True
    prepared: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """Describe one method: what it needs, what it promises, and what it does not prove.

    `needs_in_class_retain` is True when every forgotten class must still occur in the retain set. `own_stop` is True
    when a rule of its own chooses the epoch where no selection pool is left. `uses` names what it takes from a
    version's preparations; with `instead_of_retain` among them the retain set is not read. `needs_sharded_recipe` is
    True when it works only on models whose recipe has `sisa`, `needs_class_condition` when it teaches a sample another
    class, which takes a network that is told one and a dataset that has two. `for_purpose` holds the options that a
    purpose prefers to the defaults, `for_task` those that a task does. `not_for` says of each task for which it has no
    meaning why, as a sentence's end.
    """

    id: str
    title: str
    paper: str
    guarantee: Literal["exact", "approximate"]
    fidelity: Literal["paper", "reconstruction"]
    needs: frozenset[Need]
    needs_in_class_retain: bool
    purposes: frozenset[Purpose]
    config: type[MethodConfig]
    summary: str
    does_not_prove: str
    own_stop: bool = False
    needs_sharded_recipe: bool = False
    needs_class_condition: bool = False
    for_purpose: Mapping[Purpose, Mapping[str, Any]] = field(default_factory=dict)
    for_task: Mapping[Task, Mapping[str, Any]] = field(default_factory=dict)
    uses: frozenset[PreparationName] = frozenset()
    instead_of_retain: PreparationName | None = None
    not_for: Mapping[Task, str] = field(default_factory=dict)

    @property
    def tasks(self) -> frozenset[Task]:
        """Return the tasks it has a meaning for."""
        return frozenset(Task) - self.not_for.keys()

    def options_for(self, purpose: Purpose, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a request for the purpose: those given, over those that the purpose prefers."""
        return {**self.for_purpose.get(purpose, {}), **given}

    def options_on(self, task: Task, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options given, over those that the task prefers; a paper's preset stays as it is."""
        if given.get("preset", "service") != "service":
            return dict(given)
        return {**self.for_task.get(task, {}), **given}

    def lack(self, there: Available) -> str | None:
        """Say what the method needs and a model has not, as a sentence's end; None where it has all."""
        if there.task in self.not_for:
            return f"no method for {there.task}: {self.not_for[there.task]}"
        if self.needs_class_condition and there.no_other_class:
            return there.no_other_class
        if "recipe" in self.needs and not there.recipe:
            return "the model has no training recipe"
        if self.needs_sharded_recipe and not there.sharded:
            return "the model's recipe does not train it in shards"
        if self.needs_sharded_recipe and "shard_checkpoints" not in there.prepared:
            return "no checkpoints of its shards were kept"
        if "retain" in self.needs and not there.retain and self.instead_of_retain not in there.prepared:
            return "the retain set is gone"
        if "validation" in self.needs and not self.own_stop and not there.selection:
            return "the selection pool is empty, and it has nothing else to choose an epoch by"
        return None
