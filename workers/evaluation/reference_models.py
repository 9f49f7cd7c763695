"""What reference models say of each sample, told apart by whether they had seen it.

Shapes: values (k, N), one row per reference model; `used` bool (k, N), which of the values count. Samples may have
different numbers of models: a value not used is left out, never counted as zero.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.intervals import Floats
from workers.evaluation.records import Records, refuse_shared_records

Bools = NDArray[np.bool_]


def masked_mean(values: Floats, used: Bools) -> Floats:
    """Return each sample's mean over the values used, float64 (N,); NaN for a sample without one."""
    total = np.zeros(values.shape[1])
    for row, mask in zip(values, used, strict=True):  # row by row: no array of (k, N) beside the caller's
        np.add(total, row, out=total, where=mask)
    return _divided(total, used.sum(0))


def squared_deviations(values: Floats, used: Bools, mean: Floats) -> Floats:
    """Return each sample's sum of squared deviations from its mean over the values used, float64 (N,)."""
    total = np.zeros(values.shape[1])
    for row, mask in zip(values, used, strict=True):
        np.add(total, np.square(row - mean, where=mask, out=np.zeros_like(total)), out=total)
    return total


def all_finite(values: Iterable[Floats], used: Bools | None = None) -> bool:
    """Tell whether every value, or every value used, is finite."""
    rows = values if used is None else (row[mask] for row, mask in zip(values, used, strict=True))
    return all(bool(np.isfinite(row).all()) for row in rows)


def check_reference(target: Floats, is_member: Bools, reference: Floats, *masks: Bools) -> None:
    """Raise ValueError unless the shapes are (N,), (N,) and (k, N) for the reference and every mask."""
    wanted = (len(reference), len(target))
    found = [reference.shape, *(mask.shape for mask in masks)]
    if is_member.shape != target.shape or target.ndim != 1 or any(shape != wanted for shape in found):
        raise ValueError(
            f"scores {target.shape} and is_member {is_member.shape} must be (N,), "
            f"reference values and masks {found} (k, N)"
        )


def refuse_shared_by_side(records: Records | None, is_member: Bools) -> None:
    """Raise ValueError if a record stands both as a member and as a control."""
    if records is not None:
        ids: NDArray[Any] = np.empty(len(records), dtype=object)
        ids[:] = list(records)
        refuse_shared_records(ids[is_member], ids[~is_member])


def _divided(total: Floats, count: NDArray[np.int64]) -> Floats:
    missing = np.full(len(total), np.nan)
    quotient: Floats = np.divide(total, count, out=missing, where=count > 0)
    return quotient
