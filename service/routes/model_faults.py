"""What keeps a model from being registered as asked, or its policy from being replaced: every fault at once.

The parts of a body are judged one by one, each as far as it can be read: a fault in one hides none in another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.catalogue.architectures import ARCHITECTURES, ArchitectureSpec
from service.catalogue.methods import METHODS
from service.catalogue.policy import Policy
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from service.errors import Fault, InvalidRequest
from service.routes import architecture_faults
from service.routes.policy_faults import Judged, no_meaning, policy_faults
from service.schemas.drafts import Draft, readable_part
from service.schemas.models import ModelIn
from service.store import task_fit
from service.store.tables import Dataset, Model


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A registration without faults, and what it leaves out filled in."""

    body: ModelIn
    task: Task
    options: dict[str, Any]
    recipe: Recipe | None


def checked(session: Session, draft: Draft[ModelIn]) -> Checked:
    """Return what is to be registered. Raises InvalidRequest with every fault."""
    name, architecture = draft.sure("dataset"), draft.sure("architecture")
    dataset = None if name is None else session.scalar(select(Dataset).where(Dataset.name == name))
    spec = ARCHITECTURES.get(architecture)
    faults = list(draft.faults)
    if name is not None and dataset is None:
        faults.append(Fault("/dataset", "dataset_not_found", name, "GET /v1/datasets lists the datasets."))
    if architecture is not None and spec is None:
        faults.append(architecture_faults.unknown_fault(architecture))
    faults += [*_network_faults(draft, spec, dataset), *_faults_for_task(draft, spec, dataset)]
    if faults or spec is None or draft.read is None:
        raise InvalidRequest("The model cannot be registered; every fault is listed.", faults=faults)
    options = spec.options.model_validate(draft.read.architecture_options).model_dump(mode="json")
    return Checked(body=draft.read, task=spec.task, options=options, recipe=_filled_in(draft.read.recipe, spec))


def checked_policy(session: Session, draft: Draft[Policy], model: Model) -> Policy:
    """Return the policy. Raises InvalidRequest with every fault, what has no meaning for the model among them."""
    no_other = task_fit.why_no_other_class(session, model)
    judged = Judged(task=Task(model.task), no_other_class=no_other, told_class=task_fit.told_the_class(model))
    faults = [*draft.faults, *policy_faults(draft.given, judged)]
    if faults or draft.read is None:
        raise InvalidRequest(f"The policy does not fit a model for {model.task}; every fault is listed.", faults=faults)
    return draft.read


def _network_faults(draft: Draft[ModelIn], spec: ArchitectureSpec | None, dataset: Dataset | None) -> list[Fault]:
    if spec is None:
        return []
    task, given = draft.sure("task"), _part(draft, "architecture_options")
    faults = architecture_faults.task_faults(spec, None if task is None else Task(task))
    faults += architecture_faults.options_faults(spec, given)
    if dataset is not None and dataset.image_shape:
        size, source = tuple(dataset.image_shape[1:]), str(dataset.source.get("source"))
        faults += architecture_faults.size_faults(spec, given, size, source=source)
    return faults


def _faults_for_task(draft: Draft[ModelIn], spec: ArchitectureSpec | None, dataset: Dataset | None) -> list[Fault]:
    """Say what has no meaning for the architecture's task, or for the one named where nothing is known of that."""
    task = draft.sure("task") if spec is None else spec.task
    if task is None:
        return []
    options = None if spec is None else readable_part(spec.options, _part(draft, "architecture_options"))
    chosen = {} if options is None else options.model_dump(mode="json")
    judged = Judged(
        task=Task(task),
        no_other_class=task_fit.why_none_of(chosen, dataset),
        told_class=bool(chosen.get("class_condition", True)),
    )
    policy = policy_faults(_part(draft, "policy"), judged, at="/policy")
    return [*_recipe_faults(_part(draft, "recipe"), judged.task), *policy]


def _part(draft: Draft[ModelIn], field: str) -> Mapping[str, Any]:
    """Return an object within the body as it came, an empty one where it is none."""
    given = draft.given.get(field)
    return given if isinstance(given, Mapping) else {}


def _recipe_faults(recipe: Mapping[str, Any], task: Task) -> list[Fault]:
    if recipe.get("sisa") is None or task in METHODS["sisa"].tasks:
        return []
    return [no_meaning("/recipe/sisa", None, task, METHODS["sisa"].not_for[task], "Leave it out.")]


def _filled_in(recipe: Recipe | None, spec: ArchitectureSpec) -> Recipe | None:
    """Return the recipe with what was left out as the architecture has it by default."""
    if recipe is None:
        return None
    return Recipe.model_validate({**spec.recipe, **recipe.model_dump(exclude_unset=True)})
