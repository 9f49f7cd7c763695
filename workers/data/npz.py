"""A NumPy archive with arrays sample_id (str), image (uint8 NHWC or NHW), label (int), split (str)."""

import math
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import real_path
from workers.data.source import MAX_ID_LENGTH, MAX_UNPACKED_BYTES, SPLIT_ALIASES, DataError, SourceArrays, subset

NAMES = ("sample_id", "image", "label", "split")
_MAX_TEXT_BYTES = 4 * MAX_ID_LENGTH


def read(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read the archive; nothing in it is unpickled. Raises DataError."""
    arrays = _load(real_path(Path(source["path"]), roots))
    images = arrays["image"]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not 1 <= images.shape[-1] <= 4:
        raise DataError("invalid_dataset", "image must be uint8 (N, H, W) or (N, H, W, C) with C of 1 to 4.")
    found = SourceArrays(
        sample_ids=_texts(arrays["sample_id"]),
        images=np.ascontiguousarray(images.transpose(0, 3, 1, 2)),
        labels=arrays["label"].astype(np.int64),
        splits=[SPLIT_ALIASES.get(split, split) for split in _texts(arrays["split"])],
    )
    return subset(found, source.get("subset"))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    # A pipe or a device would keep its reader for ever.
    if not path.is_file():
        raise DataError("source_file_missing", "There is no file at the path any more.")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_large(archive)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in NAMES}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError):  # RuntimeError: encrypted
        raise DataError("source_unreadable", "The file is not a readable .npz archive.") from None
    except (ValueError, MemoryError, TypeError, SyntaxError, OverflowError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            "source_unreadable", "An array is damaged or holds Python objects; store plain arrays."
        ) from None
    return _typed(arrays)


def _refuse_large(archive: zipfile.ZipFile) -> None:
    """Raise DataError for arrays that are too much, by what archive and headers say, before any is unpacked."""
    members = archive.namelist()
    missing = [name for name in NAMES if f"{name}.npy" not in members]
    if missing:
        raise DataError("invalid_dataset", f"The archive lacks {', '.join(missing)}.")
    if sum(archive.getinfo(f"{name}.npy").file_size for name in NAMES) > MAX_UNPACKED_BYTES:
        raise DataError("source_too_large", f"The archive unpacks to over {MAX_UNPACKED_BYTES} bytes.")
    for name in NAMES:
        with archive.open(f"{name}.npy") as file:
            shape, kind = _header(file)
            held = archive.getinfo(f"{name}.npy").file_size - file.tell()
        if math.prod(shape) * kind.itemsize != held and kind.kind != "O":
            raise DataError("source_unreadable", f"{name} does not hold what its header says.")
        if kind.kind in "SU" and kind.itemsize > _MAX_TEXT_BYTES:
            detail = f"An array is too wide: sample_id and split have {MAX_ID_LENGTH} characters at most."
            raise DataError("invalid_dataset", detail)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, kind = read(file)
    return shape, kind


def _typed(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    wanted = {"sample_id": "SU", "image": "u", "label": "iu", "split": "SU"}
    faults = [
        f"{name} is {arrays[name].dtype}" for name, kinds in wanted.items() if arrays[name].dtype.kind not in kinds
    ]
    if arrays["image"].dtype != np.uint8:
        faults.append("image is not uint8")
    faults += [f"{name} is not one-dimensional" for name in ("sample_id", "label", "split") if arrays[name].ndim != 1]
    if faults:
        raise DataError("invalid_dataset", "The archive's arrays do not fit: " + "; ".join(faults) + ".")
    return arrays


def _texts(array: NDArray[Any]) -> list[str]:
    try:
        decoded = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else np.ascontiguousarray(array)
        # NumPy would make strings of numbers beyond Unicode, which Python cannot then handle.
        beyond = decoded.view(f"{decoded.dtype.byteorder}u4") > sys.maxunicode
        if not beyond.any():
            return [str(text) for text in decoded]
    except ValueError:  # bytes that are not UTF-8
        pass
    raise DataError("invalid_dataset", "sample_id or split holds what is not Unicode text.")
