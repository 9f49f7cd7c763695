"""What of a model's architecture keeps it from being registered: its options, the task named, the images' size."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from service.catalogue.architectures import ARCHITECTURES, ArchitectureOptions, ArchitectureSpec
from service.catalogue.sources import SOURCES
from service.catalogue.tasks import Task
from service.errors import Fault
from service.problems import validation_faults
from service.schemas.drafts import readable_part


def unknown_fault(name: str) -> Fault:
    """Return the fault of an architecture that there is not."""
    return Fault("/architecture", "unknown_architecture", name, f"Known: {', '.join(sorted(ARCHITECTURES))}.")


def task_faults(spec: ArchitectureSpec, task: Task | None) -> list[Fault]:
    """Say that the architecture is for another task than the one named."""
    if task in (None, spec.task):
        return []
    others = ", ".join(sorted(known.id for known in ARCHITECTURES.values() if known.task == task))
    detail = f"{spec.id} is for {spec.task}. Leave `task` out, say `{spec.task}`, or choose of {others}."
    return [Fault("/task", "task_not_of_architecture", task, detail)]


def options_faults(spec: ArchitectureSpec, given: Mapping[str, Any]) -> list[Fault]:
    """Say what of the options the network does not take."""
    try:
        spec.options.model_validate(given)
    except ValidationError as error:
        found = validation_faults(error.errors())
        return [Fault(f"/architecture_options{f.pointer}", f.code, f.value, f.detail) for f in found]
    return []


def size_faults(spec: ArchitectureSpec, given: Mapping[str, Any], size: tuple[int, ...], *, source: str) -> list[Fault]:
    """Say whether images of this height and width suit the network with these options, as far as they can be read.

    ``source``: where the dataset comes from, which says what can be done about its size.
    """
    shown = "x".join(map(str, size))
    if spec.sizes and (len(set(size)) > 1 or size[0] not in spec.sizes):
        return [Fault("/architecture", "image_size_not_taken", shown, _sizes_taken(spec, source))]
    chosen = readable_part(spec.options, given)
    if chosen is None or not _size_is_sure(chosen, given):
        return []
    side, smallest, default = min(size), chosen.min_image_size, spec.min_image_size
    if side < smallest:
        found = f"{spec.id} with these options takes images from {smallest}x{smallest} pixels."
        if side >= default:
            remedy = f"{found} The default options, {spec.options().model_dump(mode='json')}, take them from {default}."
            return [Fault("/architecture_options", "image_too_small", shown, remedy)]
        remedy = f"{found} Choose another architecture, or another dataset whose images are larger."
        return [Fault("/architecture", "image_too_small", shown, remedy)]
    return []


def _size_is_sure(chosen: ArchitectureOptions, given: Mapping[str, Any]) -> bool:
    """Say whether what decides the smallest image was read, or was not given: no other value may be meant for it."""
    return not (chosen.SIZED_BY & given.keys()) - chosen.model_fields_set


def _sizes_taken(spec: ArchitectureSpec, source: str) -> str:
    same = [known for known in ARCHITECTURES.values() if known.task == spec.task]
    taken = "; ".join(f"{known.id} takes {' and '.join(f'{side}x{side}' for side in known.sizes)}" for known in same)
    if source in SOURCES and SOURCES[source].decodes:
        return f"{taken}. Choose another architecture, or register the dataset anew with such a size (`decode.size`)."
    others = ", ".join(sorted(each.id for each in SOURCES.values() if each.decodes))
    return (
        f"{taken}. Choose another architecture or dataset; images from {source} are taken as they are, so make them of "
        f"such a size and register them anew. From {others} they can be resized (`decode.size`)."
    )
