"""A NumPy archive with arrays sample_id (str), image (uint8 NHWC or NHW), label (int), split (str)."""

import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.inside_roots import real_path
from workers.data.source import MAX_UNPACKED_BYTES, SPLIT_ALIASES, DataError, SourceArrays, subset

NAMES = ("sample_id", "image", "label", "split")


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
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise DataError("source_too_large", f"The archive unpacks to over {MAX_UNPACKED_BYTES} bytes.")
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive.files]
            if missing:
                raise DataError("invalid_dataset", f"The archive lacks {', '.join(missing)}.")
            arrays = {name: archive[name] for name in NAMES}
    except FileNotFoundError:
        raise DataError("source_file_missing", "There is no file at the path any more.") from None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError):  # RuntimeError: encrypted
        raise DataError("source_unreadable", "The file is not a readable .npz archive.") from None
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            "source_unreadable", "An array is damaged or holds Python objects; store plain arrays."
        ) from None
    return _typed(arrays)


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
