"""What keeps a model from being registered as asked, or its policy from being replaced: every fault at once."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from service.catalogue.architectures import ARCHITECTURES, ArchitectureOptions, ArchitectureSpec
from service.catalogue.methods import METHODS
from service.catalogue.methods.spec import MethodSpec
from service.catalogue.metrics import METRICS
from service.catalogue.policy import Policy
from service.catalogue.preparations import PREPARATIONS
from service.catalogue.purposes import NO_MEANING
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from service.errors import Fault, InvalidRequest
from service.problems import validation_faults
from service.schemas.models import ModelIn
from service.store import task_fit
from service.store.tables import Dataset, Model

NOT_FOR_TASK = "not_for_task"


def checked(body: ModelIn, dataset: Dataset | None) -> tuple[Task, dict[str, Any], Recipe | None]:
    """Return the task, the architecture's options and the recipe, with what is left out filled in.

    Raises InvalidRequest with every fault.
    """
    faults: list[Fault] = []
    if dataset is None:
        faults.append(Fault("/dataset", "dataset_not_found", body.dataset, "GET /v1/datasets lists the datasets."))
    spec = ARCHITECTURES.get(body.architecture)
    options: ArchitectureOptions | None = None
    if spec is None:
        known = ", ".join(sorted(ARCHITECTURES))
        faults.append(Fault("/architecture", "unknown_architecture", body.architecture, f"Known: {known}."))
    else:
        options = _options(spec, body.architecture_options, faults)
        faults += _task_faults(spec, body.task)
        if options is not None and dataset is not None and dataset.image_shape:
            faults += _size_faults(spec, options, tuple(dataset.image_shape[1:]))
    task = body.task or (spec.task if spec else Task.CLASSIFICATION)
    chosen = {} if options is None else options.model_dump(mode="json")
    no_other = task_fit.why_none_of(chosen, dataset)
    faults += [
        *_recipe_faults(body.recipe, task),
        *policy_faults(body.policy, task, no_other_class=no_other, at="/policy"),
    ]
    if faults or spec is None or options is None:
        raise InvalidRequest("The model cannot be registered; every fault is listed.", faults=faults)
    return task, chosen, _filled_in(body.recipe, spec)


def refuse_policy(session: Session, policy: Policy, model: Model) -> None:
    """Raise InvalidRequest where the policy speaks of things without meaning for the model."""
    task, no_other = Task(model.task), task_fit.why_no_other_class(session, model)
    if faults := list(policy_faults(policy, task, no_other_class=no_other)):
        raise InvalidRequest(f"The policy does not fit a model for {task}; every fault is listed.", faults=faults)


def policy_faults(policy: Policy, task: Task, *, no_other_class: str | None, at: str = "") -> Iterable[Fault]:
    """Yield what of the policy has no meaning for the task, and why.

    ``no_other_class``: why samples can be taught none; ``at``: where the policy stands in the body.
    """
    for i, name in enumerate(policy.ladder or ()):
        if why := _why_not(METHODS[name], task, no_other_class=no_other_class):
            yield _fault(f"{at}/ladder/{i}", name, task, why, _able(task, no_other_class=no_other_class))
    for purpose, bounds in policy.gate.items():
        why = NO_MEANING[task].get(purpose)
        if why and bounds:
            yield _fault(f"{at}/gate/{purpose}", purpose, task, why, "Leave its bounds out.")
            continue
        for i, bound in enumerate(bounds):
            if task not in METRICS[bound.metric].tasks:
                yield _fault(f"{at}/gate/{purpose}/{i}/metric", bound.metric, task, "it is not measured", _known(task))
    for i, preparation in enumerate(policy.prepare):
        if fault := preparation_fault(f"{at}/prepare/{i}", preparation, task):
            yield fault
    if policy.prepare_audit and task != Task.CLASSIFICATION:
        yield _fault(f"{at}/prepare_audit", policy.prepare_audit, task, REFERENCES_ARE_LOGITS, "Leave it false.")


REFERENCES_ARE_LOGITS = "reference models are kept by their logits, and the model predicts noise"


def preparation_fault(pointer: str, name: str, task: Task) -> Fault | None:
    """Return a fault where no method for the task could use what would be prepared."""
    if task in PREPARATIONS[name].tasks:
        return None
    used = ", ".join(sorted(known.id for known in PREPARATIONS.values() if task in known.tasks))
    return _fault(pointer, name, task, "no method for it could use it", f"Used are: {used}.")


def _task_faults(spec: ArchitectureSpec, task: Task | None) -> list[Fault]:
    if task in (None, spec.task):
        return []
    others = ", ".join(sorted(known.id for known in ARCHITECTURES.values() if known.task == task))
    detail = f"{spec.id} is for {spec.task}. Leave `task` out, say {spec.task!r}, or choose of {others}."
    return [Fault("/task", "task_not_of_architecture", task, detail)]


def _options(spec: ArchitectureSpec, given: Mapping[str, Any], faults: list[Fault]) -> ArchitectureOptions | None:
    try:
        return spec.options.model_validate(given)
    except ValidationError as error:
        found = validation_faults(error.errors())
        faults += [Fault(f"/architecture_options{f.pointer}", f.code, f.value, f.detail) for f in found]
        return None


def _size_faults(spec: ArchitectureSpec, chosen: ArchitectureOptions, size: tuple[int, ...]) -> list[Fault]:
    """Say whether images of this height and width suit the network, and what to do where they do not."""
    shown = "x".join(map(str, size))
    if spec.sizes and (len(set(size)) > 1 or size[0] not in spec.sizes):
        return [Fault("/architecture", "image_size_not_taken", shown, _sizes_taken(spec))]
    side, smallest, default = min(size), chosen.min_image_size, spec.min_image_size
    if side < smallest:
        found = f"{spec.id} with these options takes images from {smallest}x{smallest} pixels."
        if side >= default:
            remedy = f"{found} The default options, {spec.options().model_dump(mode='json')}, take them from {default}."
            return [Fault("/architecture_options", "image_too_small", shown, remedy)]
        remedy = f"{found} Choose another architecture, or another dataset whose images are larger."
        return [Fault("/architecture", "image_too_small", shown, remedy)]
    return []


def _sizes_taken(spec: ArchitectureSpec) -> str:
    same = [known for known in ARCHITECTURES.values() if known.task == spec.task]
    taken = "; ".join(f"{known.id} takes {' and '.join(f'{side}x{side}' for side in known.sizes)}" for known in same)
    return f"{taken}. Choose another architecture or dataset, or have one decoded to such a size (`decode.size`)."


def _recipe_faults(recipe: Recipe | None, task: Task) -> list[Fault]:
    if recipe is None or recipe.sisa is None or task in METHODS["sisa"].tasks:
        return []
    return [_fault("/recipe/sisa", None, task, METHODS["sisa"].not_for[task], "Leave it out.")]


def _filled_in(recipe: Recipe | None, spec: ArchitectureSpec) -> Recipe | None:
    """Return the recipe with what was left out as the architecture has it by default."""
    if recipe is None:
        return None
    return Recipe.model_validate({**spec.recipe, **recipe.model_dump(exclude_unset=True)})


def _fault(pointer: str, value: Any, task: Task, why: str, remedy: str) -> Fault:
    return Fault(pointer, NOT_FOR_TASK, value, f"It has no meaning for a model for {task}: {why}. {remedy}")


def _why_not(spec: MethodSpec, task: Task, *, no_other_class: str | None) -> str | None:
    if spec.needs_class_condition and no_other_class:
        return no_other_class
    return spec.not_for.get(task)


def _able(task: Task, *, no_other_class: str | None) -> str:
    able = sorted(name for name, spec in METHODS.items() if _why_not(spec, task, no_other_class=no_other_class) is None)
    return f"Those that have: {', '.join(able)}."


def _known(task: Task) -> str:
    return f"Those that are: {', '.join(sorted(name for name, spec in METRICS.items() if task in spec.tasks))}."
