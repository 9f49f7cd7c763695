"""What the original says of its training samples, from a preparation where there is one."""

from torch import Tensor, nn

from workers.task import Teacher
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningSplits, classifying


def teachers(original: nn.Module, splits: UnlearningSplits, around: Surroundings) -> tuple[Teacher, Teacher]:
    """Return the original as it is now as a teacher on the retain and on the forget set. Raises UnlearningError."""
    retain, forget = prepared_logits(splits, around) or (None, None)
    return around.task.teacher(original, splits.retain, retain), around.task.teacher(original, splits.forget, forget)


def teacher_logits(model: nn.Module, splits: UnlearningSplits, around: Surroundings) -> tuple[Tensor, Tensor]:
    """Return the original's logits (N, K) on the retain and on the forget set; `model` still is the original.

    Raises UnlearningError.
    """
    prepared = prepared_logits(splits, around)
    if prepared is not None:
        return prepared
    task = classifying(around)
    return task.predict(model, splits.retain), task.predict(model, splits.forget)


def prepared_logits(splits: UnlearningSplits, around: Surroundings) -> tuple[Tensor, Tensor] | None:
    """Return the prepared logits of the retain and of the forget set, if there are any.

    They stand in the order of `splits.train`. Raises UnlearningError where they belong to other samples.
    """
    prepared = around.prepared.get("teacher_logits")
    if prepared is None:
        return None
    logits = prepared["logits"].to(splits.train.device)
    if len(logits) != len(splits.train):
        raise UnlearningError("the prepared logits belong to other samples: prepare the version again")
    return logits[splits.retain_index], logits[splits.forget_index]
