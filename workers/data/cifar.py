"""CIFAR-10 and CIFAR-100 from their binary versions, read offline. IDs are ``<split>/<index>``.

The Python versions are pickles, which can run code when they are read; they are refused, never opened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import first_file
from workers.data.source import MAX_UNPACKED_BYTES, DataError, SourceArrays, subset

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the files lie, and what stands before a record's pixels; the last label is the one that counts."""

    files: Mapping[str, tuple[str, ...]]
    folders: tuple[str, ...]
    labels: int
    classes: int
    pickled: tuple[str, ...]
    archive: str


_CIFAR10 = _Layout(
    files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    folders=(".", "cifar-10-batches-bin"),
    labels=1,
    classes=10,
    pickled=("data_batch_1", "cifar-10-batches-py/data_batch_1"),
    archive="cifar-10-binary.tar.gz",
)
_CIFAR100 = _Layout(
    files={"train": ("train.bin",), "test": ("test.bin",)},
    folders=(".", "cifar-100-binary"),
    labels=2,
    classes=100,
    pickled=("train", "cifar-100-python/train"),
    archive="cifar-100-binary.tar.gz",
)


def read_10(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read CIFAR-10 below ``root``. Raises DataError."""
    return _read(source, roots, _CIFAR10)


def read_100(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read CIFAR-100 below ``root``, with the fine labels. Raises DataError."""
    return _read(source, roots, _CIFAR100)


def _read(source: Mapping[str, Any], roots: Sequence[Path], layout: _Layout) -> SourceArrays:
    root = Path(source["root"])
    parts: list[NDArray[np.uint8]] = []
    ids: list[str] = []
    splits: list[str] = []
    for split, names in layout.files.items():
        found = [_records(root, name, roots, layout) for name in names]
        if len({len(records) for records in found}) > 1:
            raise DataError("source_unreadable", f"The {split} files hold unequal numbers of records; one is cut off.")
        count = sum(map(len, found))
        parts += found
        ids += [f"{split}/{i}" for i in range(count)]
        splits += [split] * count
    records = np.concatenate(parts)
    arrays = SourceArrays(
        sample_ids=ids,
        images=np.ascontiguousarray(records[:, layout.labels :]).reshape(-1, *_SHAPE),
        labels=records[:, layout.labels - 1].astype(np.int64),
        splits=splits,
    )
    return subset(arrays, source.get("subset"))


def _records(root: Path, name: str, roots: Sequence[Path], layout: _Layout) -> NDArray[np.uint8]:
    """Return the records (N, labels + 3072) of one file."""
    path = first_file((root / folder / name for folder in layout.folders), roots)
    if path is None:
        raise _missing(root, name, roots, layout)
    try:
        if path.stat().st_size > MAX_UNPACKED_BYTES:
            raise DataError("source_too_large", f"{name} has over {MAX_UNPACKED_BYTES} bytes.")
        raw = np.fromfile(path, np.uint8)
    except OSError:
        raise DataError("source_unreadable", f"{name} cannot be read.") from None
    size = layout.labels + _PIXELS
    if not len(raw) or len(raw) % size:
        raise DataError("source_unreadable", f"{name} is cut off or no file of records of {size} bytes.")
    records = raw.reshape(-1, size)
    if records[:, layout.labels - 1].max() >= layout.classes:
        raise DataError("source_unreadable", f"{name} holds labels above {layout.classes - 1}.")
    return records


def _missing(root: Path, name: str, roots: Sequence[Path], layout: _Layout) -> DataError:
    if first_file((root / pickled for pickled in layout.pickled), roots):
        return DataError(
            "source_is_pickled",
            f"Under the root lies the Python version, whose pickles are never opened; unpack {layout.archive}.",
        )
    return DataError("source_file_missing", f"{name} is not under the root; unpack {layout.archive} there.")
