"""What of a policy has no meaning for a model, and why: every fault, also of a policy that does not fit its schema."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from service.catalogue.bounds import DRAWN
from service.catalogue.methods import METHODS, Purpose
from service.catalogue.methods.spec import MethodSpec
from service.catalogue.metrics import METRICS
from service.catalogue.policy import Policy
from service.catalogue.preparations import PREPARATIONS
from service.catalogue.purposes import NO_MEANING
from service.catalogue.tasks import Task
from service.errors import Fault
from service.schemas.drafts import readable_part

NOT_FOR_TASK = "not_for_task"
NO_CLASS_IS_ASKED_FOR = "this one is told no class, and is asked to forget none, so that it is never measured"
REFERENCES_ARE_LOGITS = "reference models are kept by their logits, and the model predicts noise"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a policy is held against. ``no_other_class``: why samples can be taught none, None where they can.

    ``told_class``: False of a network without class condition.
    """

    task: Task
    no_other_class: str | None
    told_class: bool = True


def policy_faults(policy: Mapping[str, Any], model: Judged, *, at: str = "") -> Iterator[Fault]:
    """Yield what of the policy has no meaning for the model. ``policy``: as it came; ``at``: where in the body.

    What cannot be read is passed over: that it cannot is a fault of its own, which the schema tells.
    """
    yield from _ladder_faults(policy.get("ladder"), model, f"{at}/ladder")
    gate = policy.get("gate")
    for purpose, bounds in gate.items() if isinstance(gate, Mapping) else ():
        if purpose in get_args(Purpose) and isinstance(bounds, list):
            yield from _gate_faults(purpose, bounds, model, f"{at}/gate/{purpose}")
    for i, preparation in _known_names(policy.get("prepare"), PREPARATIONS):
        if fault := preparation_fault(f"{at}/prepare/{i}", preparation, model.task):
            yield fault
    read = readable_part(Policy, policy)
    if read is not None and read.prepare_audit and model.task != Task.CLASSIFICATION:
        yield no_meaning(
            f"{at}/prepare_audit", read.prepare_audit, model.task, REFERENCES_ARE_LOGITS, "Leave it false."
        )


def preparation_fault(pointer: str, name: str, task: Task) -> Fault | None:
    """Return a fault where no method for the task could use what would be prepared."""
    if task in PREPARATIONS[name].tasks:
        return None
    used = ", ".join(sorted(known.id for known in PREPARATIONS.values() if task in known.tasks))
    return no_meaning(pointer, name, task, "no method for it could use it", f"Used are: {used}.")


def no_meaning(pointer: str, value: Any, task: Task, why: str, remedy: str) -> Fault:
    """Return the fault of something that has no meaning for the task. ``why``: as a sentence's end."""
    return Fault(pointer, NOT_FOR_TASK, value, f"It has no meaning for a model for {task}: {why}. {remedy}")


def _ladder_faults(ladder: object, model: Judged, at: str) -> Iterable[Fault]:
    for i, name in _known_names(ladder, METHODS):
        if why := _why_not(METHODS[name], model):
            yield no_meaning(f"{at}/{i}", name, model.task, why, _able(model))


def _gate_faults(purpose: Purpose, bounds: list[Any], model: Judged, at: str) -> Iterable[Fault]:
    why = NO_MEANING[model.task].get(purpose)
    if why and bounds:
        yield no_meaning(at, purpose, model.task, why, "Leave its bounds out.")
        return
    for i, bound in enumerate(bounds):
        metric, split = (bound.get("metric"), bound.get("split")) if isinstance(bound, Mapping) else (None, None)
        if not isinstance(metric, str) or metric not in METRICS:
            continue
        if model.task not in METRICS[metric].tasks:
            yield no_meaning(f"{at}/{i}/metric", metric, model.task, "it is not measured", _known(model.task))
        elif (metric, split) == (DRAWN, "forget") and not model.told_class:
            yield no_meaning(f"{at}/{i}/metric", metric, model.task, NO_CLASS_IS_ASKED_FOR, "Leave the bound out.")


def _known_names(given: object, known: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the names of a list that there are, each with its place; nothing of what is no list."""
    for i, name in enumerate(given if isinstance(given, list) else ()):
        if isinstance(name, str) and name in known:
            yield i, name


def _why_not(spec: MethodSpec, model: Judged) -> str | None:
    if spec.needs_class_condition and model.no_other_class:
        return model.no_other_class
    return spec.not_for.get(model.task)


def _able(model: Judged) -> str:
    able = sorted(name for name, spec in METHODS.items() if _why_not(spec, model) is None)
    return f"Those that have: {', '.join(able)}."


def _known(task: Task) -> str:
    return f"Those that are: {', '.join(sorted(name for name, spec in METRICS.items() if task in spec.tasks))}."
