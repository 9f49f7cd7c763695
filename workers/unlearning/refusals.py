"""What no method, or not this one, can work on; asked before the work, and once after it."""

import torch
from torch import nn

from service.catalogue.methods import METHODS
from service.catalogue.methods.spec import no_other_class
from service.catalogue.tasks import Task
from workers.architectures.ddpm import Ddpm
from workers.unlearning.interface import InvalidSplitsError, UnlearningError, UnlearningResult, UnlearningSplits

NAMED = 5
"""Most tensors that an error names."""


def refuse_before(
    method: str, parent: nn.Module, splits: UnlearningSplits, *, num_classes: int, task: Task = Task.CLASSIFICATION
) -> None:
    """Refuse what the method would fail or mislead on. Raises InvalidSplitsError, UnlearningError."""
    if task in METHODS[method].not_for:
        raise UnlearningError(f"{method} has no meaning for {task}: {METHODS[method].not_for[task]}")
    _refuse_unknown_classes(splits, num_classes)
    _refuse_without_class_condition(method, parent, splits, num_classes)
    _refuse_without_selection(method, splits)
    _refuse_emptied_classes(method, splits)
    _refuse_broken_parent(method, parent)


def refuse_unmoved(parent: nn.Module, result: UnlearningResult) -> None:
    """Refuse to call the parent's own weights an unlearned model; its norm buffers alone do not count."""
    if all(map(torch.equal, parent.parameters(), result.model.parameters())):
        raise UnlearningError("every weight equals the parent's bit for bit", history=result.history)


def _refuse_unknown_classes(splits: UnlearningSplits, num_classes: int) -> None:
    """Refuse labels that the network has no output for; on a GPU they would end the process."""
    labels = torch.cat([splits.train.labels, splits.selection.labels])
    unknown = sorted(set(labels[(labels < 0) | (labels >= num_classes)].tolist()))
    if unknown:
        raise InvalidSplitsError(f"the network has classes 0 to {num_classes - 1}, and the samples labels {unknown}")


def _refuse_without_class_condition(method: str, parent: nn.Module, splits: UnlearningSplits, num_classes: int) -> None:
    """Refuse what a network that is told no class cannot be taught, and a class that nothing could show it forgot."""
    told = not isinstance(parent, Ddpm) or parent.class_condition
    why = no_other_class(class_condition=told, classes=num_classes)
    if why and METHODS[method].needs_class_condition:
        raise UnlearningError(f"{method}: {why}")
    if told:
        return
    emptied = _emptied(splits)
    if emptied:
        raise UnlearningError(
            f"nothing is retained of {emptied}, and nothing could show that a model that is told no class draws these "
            "no more"
        )


def _refuse_without_selection(method: str, splits: UnlearningSplits) -> None:
    """Refuse a method that chooses among its epochs when nothing is held out to choose by."""
    spec = METHODS[method]
    if spec.guarantee == "approximate" and not spec.own_stop and not len(splits.selection):
        raise UnlearningError(
            f"the selection pool is empty, so {method} has nothing to choose an epoch by; ask for retrain"
        )


def _refuse_emptied_classes(method: str, splits: UnlearningSplits) -> None:
    """Refuse a method that needs retained samples of every forgotten class where the forget set has them all."""
    if not METHODS[method].needs_in_class_retain:
        return
    emptied = _emptied(splits)
    if emptied:
        raise UnlearningError(f"{method} needs retained samples of each forgotten class, and has none of {emptied}")


def _emptied(splits: UnlearningSplits) -> list[int]:
    """Return the forgotten classes of which nothing is retained, ascending."""
    return sorted(set(splits.forget.labels.tolist()) - set(splits.retained_labels.tolist()))


def _refuse_broken_parent(method: str, parent: nn.Module) -> None:
    """Refuse to start an approximate method from weights that are not finite; an exact one does not read them."""
    tensors = parent.state_dict().items()
    broken = [name for name, value in tensors if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken and METHODS[method].guarantee == "approximate":
        named = ", ".join(map(repr, broken[:NAMED])) + (", …" if len(broken) > NAMED else "")
        raise UnlearningError(f"the original has values that are not finite, in {named}: only an exact method can work")
