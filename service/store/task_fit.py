"""What a model's task rules out of a request: purposes without meaning for it, and classes it was never told."""

from collections.abc import Mapping
from typing import Any, cast

from sqlalchemy.orm import Session

from service.catalogue.methods import AUTO, METHODS, Purpose
from service.catalogue.methods.spec import no_other_class
from service.catalogue.purposes import NO_MEANING
from service.catalogue.tasks import Task
from service.errors import Fault
from service.store.tables import Dataset, Model

BY_TASK = "Or ask for `auto`, which chooses for each model one that fits, or name in `models` only others."


def purpose_faults(model: Model, purpose: str) -> list[Fault]:
    """Return a fault, with what to do, where the purpose has no meaning for the model's task."""
    why = NO_MEANING[Task(model.task)].get(cast("Purpose", purpose))
    if why is None:
        return []
    reason = f"Model {model.name!r} is for {model.task}: {why}. Ask for `privacy`, or name in `models` only others."
    return [Fault("/purpose", "purpose_not_for_task", purpose, reason)]


def is_for_others(method: str, model: Model) -> bool:
    """Say whether the method asked for has no meaning for the model's task, whatever else the model has."""
    return method != AUTO and Task(model.task) not in METHODS[method].tasks


def told_the_class(model: Model) -> bool:
    """Say whether the network works class by class, as all do but those registered without class condition."""
    return _has_class_condition(model.architecture_options)


def why_no_other_class(session: Session, model: Model) -> str | None:
    """Say why the model's samples can be taught no other class, as a sentence's end; None where they can."""
    return why_none_of(model.architecture_options, session.get_one(Dataset, model.dataset_id))


def why_none_of(options: Mapping[str, Any], dataset: Dataset | None) -> str | None:
    """Say the same of an architecture's options and a dataset, where there is one."""
    return no_other_class(class_condition=_has_class_condition(options), classes=dataset.num_classes if dataset else 0)


def _has_class_condition(options: Mapping[str, Any]) -> bool:
    return bool(options.get("class_condition", True))


def no_class_condition(model: Model, classes: int) -> Fault:
    """Return the fault of a request that empties classes of a model that is never told one."""
    reason = (
        f"Nothing would be left of {classes} of the classes that model {model.name!r} was trained on. It draws images "
        "without being told a class, so nothing could show that it draws these no more. Name fewer of the samples, "
        "have a new model trained without them, or name in `models` only others."
    )
    return Fault("/sample_ids", "model_without_class_condition", classes, reason)
