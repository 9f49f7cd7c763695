"""Fashion-MNIST from its IDX files, plain or gzipped, read offline. IDs are ``<split>/<index>``."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import first_file
from workers.data.source import DataError, SourceArrays, subset

_FILES = {"train": "train", "test": "t10k"}
_FOLDERS = (".", "raw", "FashionMNIST/raw", "fashion-mnist")
_UINT8 = 0x08


def read(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read both splits below ``root`` (torchvision's layout or the bare files). Raises DataError."""
    root = Path(source["root"])
    images, labels, ids, splits = [], [], [], []
    for split, stem in _FILES.items():
        images.append(_idx(root, f"{stem}-images-idx3-ubyte", 3, roots))
        labels.append(_idx(root, f"{stem}-labels-idx1-ubyte", 1, roots))
        count = len(labels[-1])
        ids += [f"{split}/{i}" for i in range(count)]
        splits += [split] * count
    arrays = SourceArrays(
        sample_ids=ids,
        images=np.concatenate(images)[:, None],
        labels=np.concatenate(labels).astype(np.int64),
        splits=splits,
    )
    return subset(arrays, source.get("subset"))


def _idx(root: Path, name: str, dimensions: int, roots: Sequence[Path]) -> NDArray[np.uint8]:
    places = (root / folder / file for folder in _FOLDERS for file in (name, f"{name}.gz"))
    path = first_file(places, roots)
    if path is None:
        raise DataError("source_file_missing", f"{name} (or {name}.gz) is not under the root.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error):
        raise DataError("source_unreadable", f"{path.name} cannot be decompressed.") from None
    header = 4 + 4 * dimensions
    if len(raw) < header or raw[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise DataError("source_unreadable", f"{path.name} is not an IDX file of bytes in {dimensions} dimensions.")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dimensions, 4))
    if len(raw) - header != int(np.prod(shape, dtype=np.int64)):
        raise DataError("source_unreadable", f"{path.name} does not hold what its header says.")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
