"""Whether a dataset's location lies inside the folders the operator allows; nothing else is ever opened."""

from pathlib import Path

from service.errors import Fault, InvalidRequest
from service.settings import Settings

_ALLOWED = "Give an absolute path inside a folder that the operator allows (UNLEARN_ALLOWED_ROOTS)."


def resolve(settings: Settings, location: str, *, pointer: str) -> Path:
    """Return the real path, symbolic links followed. Raises InvalidRequest when it is outside or absent."""
    if "\x00" in location:
        raise _refuse(pointer, "path_not_allowed", "A path cannot hold a NUL character.")
    path = Path(location.removeprefix("file://"))
    try:
        resolved = path.resolve()
        found = resolved.exists()
    except (OSError, RuntimeError):  # too long a name, or links in a circle
        raise _refuse(pointer, "path_not_allowed", _ALLOWED) from None
    if not path.is_absolute() or not any(resolved.is_relative_to(root) for root in settings.roots):
        # The same answer whether or not it exists: the service is no way to explore the machine.
        raise _refuse(pointer, "path_not_allowed", _ALLOWED)
    if not found:
        raise _refuse(pointer, "path_not_found", "There is nothing at this path.")
    return resolved


def _refuse(pointer: str, code: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code=code, faults=[Fault(pointer, code, None, detail)])
