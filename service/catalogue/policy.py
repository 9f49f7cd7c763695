"""What a model's owner decides beforehand about its unlearning; frozen with each accepted request."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Policy(BaseModel):
    """The rules a model's deletion requests are worked under."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_accuracy_drop: float = Field(
        2.0,
        gt=0,
        le=100,
        description="Utility guard, percentage points: an attempt whose accuracy on the selection pool (labels still "
        "in the retain set) falls by more ends, and its job is held for a person.",
    )
    stop_serving: Literal["on_success", "immediately"] = Field(
        "on_success",
        description="`immediately` quarantines every version trained on the ids as soon as a request is accepted.",
    )
