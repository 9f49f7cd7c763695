"""What the original says of its training samples, from a preparation where there is one."""

from torch import Tensor, nn

from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningSplits


def teacher_logits(model: nn.Module, splits: UnlearningSplits, around: Surroundings) -> tuple[Tensor, Tensor]:
    """Return the original's logits (N, K) on the retain and on the forget set; `model` still is the original.

    Prepared logits stand in the order of `splits.train`. Raises UnlearningError where they belong to other samples.
    """
    prepared = around.prepared.get("teacher_logits")
    if prepared is None:
        return around.task.predict(model, splits.retain), around.task.predict(model, splits.forget)
    logits = prepared["logits"].to(splits.train.device)
    if len(logits) != len(splits.train):
        raise UnlearningError("the prepared logits belong to other samples: prepare the version again")
    return logits[splits.retain_index], logits[splits.forget_index]
