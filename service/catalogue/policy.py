"""What a model's owner decides beforehand about its unlearning; frozen with each accepted request."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.catalogue.bounds import Bound, default_bounds, is_attack
from service.catalogue.ladders import written_out
from service.catalogue.methods import METHODS, Purpose
from service.catalogue.preparations import OnDemand
from service.catalogue.tasks import Task

SmallSets = Literal["exact", "gather", "disclose"]


APPROVAL_BOUNDS = ("approval_above_share", "approval_above_class_share")
"""Fields that only a key which may approve changes: else who asks could do without approval."""


class Policy(BaseModel):
    """The rules a model's deletion requests are worked under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_accuracy_drop: float = Field(
        2.0,
        gt=0,
        le=100,
        description="Utility guard, percentage points, of accuracy on labels left in the retain set: a method that "
        "finds no model within it on the selection pool gives way to the next; a model that lost more beyond doubt on "
        "the test set is held for a person.",
    )
    stop_serving: Literal["on_success", "immediately"] = Field(
        "on_success",
        description="`immediately` quarantines every version trained on the ids as soon as a request is accepted.",
    )
    gate: dict[Purpose, tuple[Bound, ...]] = Field(
        default_factory=dict,
        description="Bounds by purpose that an unlearned model must keep to be published. A purpose not named has the "
        "default bounds; one with an empty list has none.",
    )
    ladder: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Methods to try in this order for `auto`, and to fall back to when one does not pass the gate. "
        "Null: the service's own for the purpose and for what there is to forget.",
    )
    retain_data: Literal["available", "gone"] = Field(
        "available",
        description="gone: the retained training samples may not be read. Only methods that need the forget set alone "
        "are used, figures on the retain set are left out, and nothing but a model's first version is trained.",
    )
    small_sets: SmallSets | None = Field(
        None,
        description="What to do when a bound cannot be tested at the request's size. exact: go on to the next method, "
        "in the end to retraining. gather: wait for more requests, then disclose. disclose: publish on the others "
        "and say so. Null: exact for `auto` where retraining fits the budget, else disclose.",
    )
    retraining_budget_seconds: float = Field(
        600, ge=0, description="How long an automatic retraining for a small set may take by forecast."
    )
    gather_share: float = Field(
        0.1, gt=0, le=0.5, description="Share of the time to the due date that `gather` waits for more requests."
    )
    surest_within_hours: float = Field(
        24,
        ge=0,
        description="This near its due date a job goes straight to the surest method of the ladder; sooner where twice "
        "the forecast of a retraining is longer.",
    )
    approval_above_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="A request for more than this share of the model's training set waits for a second person's "
        "approval. Null: as UNLEARN_APPROVAL_ABOVE_SHARE says; 1: none does.",
    )
    approval_above_class_share: float | None = Field(
        None, gt=0, le=1, description="The same for the share of any one class; null: no bound."
    )
    audit_retention_days: int = Field(
        0, ge=0, le=3650, description="How long a forget set's samples may still be read to audit later versions."
    )
    prepare_audit: bool = Field(
        default=False,
        description="Train the reference models for attacks as soon as a version is active, if there is a recipe.",
    )
    prepare: tuple[OnDemand, ...] = Field(
        (),
        max_length=3,
        description="What is prepared of each version as soon as it is active, so that no request pays for it.",
    )
    reexecution_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the erasures whose unlearning is done a second time from the parent, and compared, "
        "before the result is published; the log's signed checkpoint draws them. 1 is all, 0 none.",
    )
    reference_models: int = Field(8, ge=2, le=256, multiple_of=2, description="How many reference models to train.")

    @field_validator("gate")
    @classmethod
    def no_bound_twice(cls, gate: Mapping[Purpose, tuple[Bound, ...]]) -> Mapping[Purpose, tuple[Bound, ...]]:
        """Refuse two bounds that could contradict each other."""
        for purpose, bounds in gate.items():
            seen = [(bound.metric, bound.split, bound.on, bound.of) for bound in bounds]
            for key in {key for key in seen if seen.count(key) > 1}:
                raise ValueError(f"{purpose} bounds {key[0]!r} twice on the same split, edge and reference")
        return gate

    @field_validator("prepare")
    @classmethod
    def each_once(cls, prepare: tuple[OnDemand, ...]) -> tuple[OnDemand, ...]:
        """Refuse one that is named twice."""
        if len(set(prepare)) < len(prepare):
            raise ValueError("a preparation is named twice")
        return prepare

    @field_validator("ladder")
    @classmethod
    def known_methods_once(cls, ladder: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuse methods that do not exist or come twice."""
        if ladder is None:
            return None
        unknown = [name for name in ladder if name not in METHODS]
        if unknown:
            raise ValueError(f"unknown methods {unknown}; GET /v1/methods lists {sorted(METHODS)}")
        if len(set(ladder)) < len(ladder):
            raise ValueError("a method stands in the ladder twice")
        return ladder


def bounds_of(policy: Policy, purpose: Purpose, task: Task = Task.CLASSIFICATION) -> tuple[Bound, ...]:
    """Return the bounds that hold for a purpose: the policy's own, or the default ones of the task."""
    return policy.gate.get(purpose, default_bounds(task, purpose))


def frozen(policy: Mapping[str, Any], purpose: Purpose, task: Task = Task.CLASSIFICATION) -> dict[str, Any]:
    """Return a stored policy written out in full, with the bounds that hold: what an acceptance freezes.

    JSON-safe. A later change of a default then changes nothing that was accepted before.
    """
    read = Policy.model_validate(policy)
    bounds = [bound.model_dump(mode="json", exclude_none=True) for bound in bounds_of(read, purpose, task)]
    ladders = written_out(purpose, task) if read.ladder is None else None
    whole = read.model_dump(mode="json", exclude={"gate"})
    return {**whole, "ladders": ladders, "purpose": purpose, "bounds": bounds}


def tests_membership(policy: Mapping[str, Any]) -> bool:
    """Say whether a frozen policy requires a bound on an attack, which too small a forget set leaves untestable."""
    return any(is_attack(bound["metric"]) and bound["required"] for bound in policy["bounds"])


def surest_within_seconds(within: float, retraining_seconds: float | None) -> float:
    """Return how long before its due date a job turns to its surest method: as the policy says, or sooner.

    ``within``: the policy's word, in seconds. Twice the forecast of a retraining leaves room for one that is slower.
    """
    return max(within, 2 * (retraining_seconds or 0.0))
