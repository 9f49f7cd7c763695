"""Refuse an attack whose members and hold-out come from the same records: it could not fail, nor succeed."""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

from numpy.typing import NDArray

Records = Sequence[Hashable] | NDArray[Any]
"""Ids, or positions in one common index, of the samples of one side."""


def refuse_shared_records(*sides: Records) -> None:
    """Raise ValueError if any record is in two of the sides. The message counts, and names none."""
    for left, right in combinations([set(side.tolist() if hasattr(side, "tolist") else side) for side in sides], 2):
        if shared := len(left & right):
            raise ValueError(
                f"{shared} records stand on two sides of an attack; draw members and hold-out from disjoint sets"
            )
