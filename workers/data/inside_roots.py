"""Looks again, right before a file is opened, whether it lies inside the folders the operator allows.

A registration was checked too, but links may have been put in its path since.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from workers.data.source import DataError


def real_path(path: Path, roots: Sequence[Path]) -> Path:
    """Return the path with every link followed; nothing may be there. Raises DataError when it leads outside."""
    try:
        found = path.resolve()
    except (OSError, RuntimeError):  # links in a circle
        found = None
    if found is None or not any(found.is_relative_to(root.resolve()) for root in roots):
        # The same answer whether or not something is there.
        raise DataError("path_not_allowed", "The path leads outside the folders the operator allows.")
    return found


def first_file(places: Iterable[Path], roots: Sequence[Path]) -> Path | None:
    """Return the real path of the first place where a regular file is. Raises DataError where one leads outside."""
    return next((real for place in places if (real := real_path(place, roots)).is_file()), None)
