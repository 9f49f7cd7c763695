"""What an upload's header shows of the moving average beside a generation model's weights: every fault at once.

It holds the file's tensors against each other. What needs the network or the values, such as shapes and whether the
average was ever taken, is the worker's to find.
"""

from collections.abc import Iterable

from service.catalogue import moving_average
from service.catalogue.moving_average import AVERAGE, UPDATES
from service.errors import MAX_FAULTS, Fault, InvalidRequest
from service.weights_header import Tensors

_WEIGHTS = "net."
_COUNTER = ("I64", ())
_SHOWN = 80


def refuse(tensors: Tensors, model: str) -> None:
    """Raise InvalidRequest where the average is missing, or is not one of all the weights. ``model``: its name."""
    found = list(_faults(tensors))
    if not found and not moving_average.is_missing(tensors):
        return
    why = moving_average.MISSING if moving_average.is_missing(tensors) else _incomplete(len(found))
    raise InvalidRequest(f"These are no weights of {model!r}: {why}.", code="average_missing", faults=found)


def _incomplete(count: int) -> str:
    listed = "each fault is listed" if count <= MAX_FAULTS else f"the first {MAX_FAULTS} of {count} faults are listed"
    return (
        f"the moving average is not that of all the weights; {listed}. Each {_WEIGHTS + '…'!r} tensor has one of its "
        f"shape and type named {AVERAGE + '…'!r}, and {UPDATES!r}, int64 without dimensions, counts the updates"
    )


def _faults(tensors: Tensors) -> Iterable[Fault]:
    for name, kind in tensors.items():
        if name.startswith(_WEIGHTS):
            yield from _fault(tensors, AVERAGE + name.removeprefix(_WEIGHTS), kind, f"as {name[:_SHOWN]!r} is")
    yield from _fault(tensors, UPDATES, _COUNTER, "as a count is")
    for name in tensors:
        of = _WEIGHTS + name.removeprefix(AVERAGE)
        if name.startswith(AVERAGE) and of not in tensors:
            detail = f"There is no {of[:_SHOWN]!r} that it could be the average of; add that, or leave this out."
            yield Fault("", "tensor_unexpected", name[:_SHOWN], detail)


def _fault(tensors: Tensors, name: str, wanted: tuple[str, tuple[int, ...]], as_what: str) -> Iterable[Fault]:
    """Yield what is wrong with the tensor of that name, which is to be of this type and shape."""
    given = tensors.get(name)
    if given is None:
        yield Fault("", "tensor_missing", name[:_SHOWN], f"It is to be {_told(wanted)}, {as_what}.")
    elif given != wanted:
        yield Fault("", "tensor_differs", name[:_SHOWN], f"It is {_told(given)}; make it {_told(wanted)}, {as_what}.")


def _told(kind: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = kind
    return f"{dtype} {list(shape)}"
