"""Fashion-MNIST from its IDX files, plain or gzipped, read offline. IDs are ``<split>/<index>``."""

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import first_file
from workers.data.source import MAX_UNPACKED_BYTES, DataError, SourceArrays, subset

_FILES = {"train": "train", "test": "t10k"}
_FOLDERS = (".", "raw", "FashionMNIST/raw", "fashion-mnist")
_UINT8 = 0x08
_CHUNK = 2**20


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
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _array(file, path.name, dimensions)
    except (OSError, EOFError, zlib.error):
        raise DataError("source_unreadable", f"{path.name} cannot be decompressed.") from None


def _array(file: IO[bytes] | gzip.GzipFile, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Read what the header speaks of and not a byte more: what a file unpacks to is known only when it has."""
    header = file.read(4 + 4 * dimensions)
    if len(header) < 4 + 4 * dimensions or header[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise DataError("source_unreadable", f"{name} is not an IDX file of bytes in {dimensions} dimensions.")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", dimensions, 4))
    size = math.prod(shape)
    if size > MAX_UNPACKED_BYTES:
        raise DataError("source_too_large", f"{name} unpacks to over {MAX_UNPACKED_BYTES} bytes.")
    raw = bytearray()
    while len(raw) < size and (chunk := file.read(min(_CHUNK, size - len(raw)))):
        raw += chunk
    if len(raw) < size or file.read(1):
        raise DataError("source_unreadable", f"{name} does not hold what its header says.")
    return np.frombuffer(raw, np.uint8).reshape(shape)
