"""Street View House Numbers, cropped digits, from their MATLAB files, read offline. IDs are ``<split>/<index>``."""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import first_file
from workers.data.source import MAX_UNPACKED_BYTES, DataError, SourceArrays, subset

_FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat"}
_FOLDERS = (".", "svhn", "SVHN")
_CLASSES = 10
_DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError, UnicodeError, AttributeError),
    *(OSError, EOFError, struct.error, zlib.error, NotImplementedError),
)
"""What scipy raises, beside its own, for files that are damaged; NotImplementedError: version 7.3, which is HDF5."""


def read(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read both splits below ``root``; 10 stands for the digit 0 in the files. Raises DataError."""
    images, labels, ids, splits = [], [], [], []
    for split, name in _FILES.items():
        x, y = _arrays(Path(source["root"]), name, roots)
        images.append(x)
        labels.append(y)
        ids += [f"{split}/{i}" for i in range(len(y))]
        splits += [split] * len(y)
    arrays = SourceArrays(
        sample_ids=ids,
        images=np.concatenate(images),
        labels=np.concatenate(labels).astype(np.int64) % _CLASSES,
        splits=splits,
    )
    return subset(arrays, source.get("subset"))


def _arrays(root: Path, name: str, roots: Sequence[Path]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Return images (N, 3, 32, 32) and labels (N,) from 1 to 10."""
    path = first_file((root / folder / name for folder in _FOLDERS), roots)
    if path is None:
        raise DataError("source_file_missing", f"{name} is not under the root.")
    found = _load(path, name)
    x, y = found["X"], found["y"].ravel()
    if x.dtype != np.uint8 or x.shape != (32, 32, 3, len(y)) or y.dtype.kind not in "uif":
        raise DataError("source_unreadable", f"{name} must hold X, uint8 (32, 32, 3, N), and y, N labels.")
    if not np.isin(y, np.arange(1, _CLASSES + 1)).all():
        raise DataError("source_unreadable", f"{name} holds labels other than 1 to {_CLASSES}.")
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1)), y


def _load(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """Return X and y; what a file unpacks to is read from its headers before anything is unpacked."""
    # Imported here: it takes long to load, and other sources do without.
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        shapes = {variable: shape for variable, shape, _ in whosmat(path, appendmat=False)}
        if not {"X", "y"} <= shapes.keys():
            raise DataError("source_unreadable", f"{name} lacks the variables X and y.")
        # eight bytes are the widest number
        if sum(8 * math.prod(shapes[key]) for key in ("X", "y")) > MAX_UNPACKED_BYTES:
            raise DataError("source_too_large", f"{name} unpacks to over {MAX_UNPACKED_BYTES} bytes.")
        arrays: dict[str, NDArray[Any]] = loadmat(path, appendmat=False, variable_names=["X", "y"])
    except DataError:
        raise
    except (MatReadError, *_DAMAGE):
        raise DataError("source_unreadable", f"{name} is damaged or no MATLAB file of version 5.") from None
    if not all(isinstance(arrays.get(key), np.ndarray) for key in ("X", "y")):
        raise DataError("source_unreadable", f"{name} must hold X and y as plain arrays.")
    return arrays
