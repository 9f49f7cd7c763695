"""Decoded samples on the worker's disk, keyed by dataset; erased rows are overwritten with zeros."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import data
from workers.data.source import DataError, SourceArrays


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one dataset's cache is, and a folder on the same file system that is removed with the attempt."""

    folder: Path
    scratch: Path


def write(entry: Entry, arrays: SourceArrays, digest: str, *, erased: Sequence[int] = ()) -> None:
    """Store images and labels; the folder appears whole or not at all."""
    entry.folder.parent.mkdir(parents=True, exist_ok=True)
    # In the attempt's own folder: who dies here leaves nothing that the sweeper does not remove by the claim.
    scratch = Path(tempfile.mkdtemp(dir=entry.scratch))
    images = arrays.images.copy()
    images[list(erased)] = 0
    _save(scratch / "images.npy", images)
    _save(scratch / "labels.npy", arrays.labels)
    (scratch / "digest.json").write_text(json.dumps({"sha256": digest}))
    shutil.rmtree(entry.folder, ignore_errors=True)
    scratch.replace(entry.folder)


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write a .npy file. Raises OSError, whose number says what is wrong: of a full disk NumPy's own gives none."""
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(whole))
        file.write(whole.reshape(-1).view(np.uint8).data)


def load(
    entry: Entry,
    source: Mapping[str, Any],
    digest: str,
    *,
    erased: Sequence[int],
    roots: Sequence[Path],
    places: Sequence[int | None] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all images and labels by position, decoding the source again if this machine has no cache of it.

    ``places``: for each position the source's row, None where the source has it no more, which then is all zeros;
    left out, positions are rows.

    Raises DataError when the source is no longer what was indexed, or lies outside the roots by now.
    """
    folder, key = entry.folder, _key(digest, places)
    if not _is_of(folder, key):
        arrays = data.read(source, roots=roots)
        if arrays.digest() != digest:
            raise DataError("dataset_changed", "The source is not what was indexed; register it under a new name.")
        write(entry, arrays if places is None else _arranged(arrays, places), key, erased=erased)
    forget(folder, erased)
    return np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False), np.load(
        folder / "labels.npy", allow_pickle=False
    )


def _key(digest: str, places: Sequence[int | None] | None) -> str:
    """Return what a cache is known by: the source's digest, and how its rows are arranged."""
    if places is None:
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(places)}".encode()).hexdigest()


def _arranged(arrays: SourceArrays, places: Sequence[int | None]) -> SourceArrays:
    there = np.array([i for i, row in enumerate(places) if row is not None], dtype=np.int64)
    rows = np.array([row for row in places if row is not None], dtype=np.int64)
    images = np.zeros((len(places), *arrays.images.shape[1:]), dtype=np.uint8)
    labels = np.zeros(len(places), dtype=np.int64)
    images[there], labels[there] = arrays.images[rows], arrays.labels[rows]
    return replace(arrays, images=images, labels=labels)


def forget(folder: Path, erased: Sequence[int]) -> None:
    """Overwrite the images of erased positions; does nothing without a cache."""
    path = folder / "images.npy"
    if not erased or not path.exists():
        return
    images = np.load(path, mmap_mode="r+", allow_pickle=False)
    images[list(erased)] = 0
    images.flush()


def _is_of(folder: Path, digest: str) -> bool:
    try:
        return bool(json.loads((folder / "digest.json").read_text())["sha256"] == digest)
    except (OSError, ValueError, KeyError):
        return False
