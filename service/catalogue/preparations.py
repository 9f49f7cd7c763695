"""What can be made of a model version before any request, so that a request need not pay for it."""

from dataclasses import dataclass
from typing import Literal

from service.catalogue.tasks import ANY_TASK, CLASSIFICATION_ALONE, Task

PreparationName = Literal["importance_loss", "importance_output", "teacher_logits", "shard_checkpoints"]
OnDemand = Literal["importance_loss", "importance_output", "teacher_logits"]
"""Those that can be asked for at any time; the others come with training."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Say what a preparation holds, in words that an operator can judge it by."""

    id: PreparationName
    holds: str
    on_demand: bool = True
    tasks: frozenset[Task] = CLASSIFICATION_ALONE


PREPARATIONS: dict[str, Preparation] = {
    each.id: each
    for each in (
        Preparation(
            id="importance_loss",
            holds="For each weight the mean over the version's training samples of the squared gradient of the loss.",
            tasks=ANY_TASK,
        ),
        Preparation(
            id="importance_output",
            holds="For each weight the mean over the version's training samples of the absolute gradient of the "
            "squared norm of the logits.",
        ),
        Preparation(
            id="teacher_logits",
            holds="The version's logits on each of its training samples, without augmentation.",
        ),
        Preparation(
            id="shard_checkpoints",
            holds="The weights of each shard's network before each of its slices was added.",
            on_demand=False,
        ),
    )
}
