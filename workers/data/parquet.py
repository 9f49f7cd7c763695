"""Parquet with columns sample_id, image, label, split: the shape of the Hugging Face hub. Read batch by batch.

An image is encoded bytes, a struct whose field `bytes` holds them, or a list of uint8 in the order height, width,
channel. Nothing in a file is unpickled.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workers.data.decoding import ImageDecoder, ImageStack, Pixels, Undecodable
from workers.data.inside_roots import real_path
from workers.data.source import MAX_CLASSES, SPLIT_ALIASES, DataError, SourceArrays, subset_positions

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 64
_MAX_ROWS = 10**8
_SMALL = ("sample_id", "label", "split")


def read(source: Mapping[str, Any], roots: Sequence[Path]) -> SourceArrays:
    """Read ids, labels and splits, then decode the images of the subset. Raises DataError."""
    # Imported here: it takes long to load, and other sources do without.
    import pyarrow as pa

    paths = _paths(real_path(Path(source["path"]), roots), roots)
    try:
        rows = _rows(paths)
        labels = np.array(rows["label"], np.int64)
        splits = [SPLIT_ALIASES.get(split, split) for split in rows["split"]]
        positions = subset_positions(labels, splits, source.get("subset"))
        images = _decoded(paths, positions, ImageDecoder(source.get("decode")))
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeError):
        raise DataError("source_unreadable", "A file is damaged or no Parquet file.") from None
    return SourceArrays(
        sample_ids=[rows["sample_id"][i] for i in positions],
        images=images,
        labels=labels[positions],
        splits=[splits[i] for i in positions],
    )


def _paths(path: Path, roots: Sequence[Path]) -> list[Path]:
    """Return the file, or the Parquet files of a folder in the order of their names."""
    within = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    found = [real for each in within if (real := real_path(each, roots)).is_file()]
    if not found:
        raise DataError("source_file_missing", "There is no Parquet file at the path.")
    return found


def _rows(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Return all columns but the images, checked. Raises DataError with every fault."""
    from pyarrow import parquet

    rows: dict[str, list[Any]] = {name: [] for name in _SMALL}
    for path in paths:
        with parquet.ParquetFile(path) as file:
            _refuse(_schema_faults(file.schema_arrow))
            if sum(map(len, rows.values())) + 3 * file.metadata.num_rows > 3 * _MAX_ROWS:
                raise DataError("source_too_large", f"There are over {_MAX_ROWS} rows.")
            for batch in file.iter_batches(_BATCH * _BATCH, columns=list(_SMALL)):
                for name in _SMALL:
                    rows[name] += batch.column(name).to_pylist()
    _refuse([f"{name} has empty cells" for name in _SMALL if None in rows[name]])
    _refuse([f"labels must be 0 to {MAX_CLASSES - 1}"] if not all(0 <= n < MAX_CLASSES for n in rows["label"]) else [])
    return rows


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise DataError("invalid_dataset", "The columns do not fit: " + "; ".join(faults) + ".")


def _schema_faults(schema: "pa.Schema") -> list[str]:
    from pyarrow import types

    names = schema.names
    faults = [f"{name} comes {names.count(name)} times" for name in (*_SMALL, "image") if names.count(name) != 1]
    if faults:
        return faults
    kinds = {name: _plain(schema.field(name).type) for name in (*_SMALL, "image")}
    fits = {
        "sample_id": _is_text(kinds["sample_id"]),
        "label": types.is_integer(kinds["label"]),
        "split": _is_text(kinds["split"]),
        "image": _is_bytes(_inner(kinds["image"])) or _is_list_of_uint8(kinds["image"]),
    }
    return [f"{name} is {kinds[name]}" for name, fit in fits.items() if not fit]


def _plain(kind: "pa.DataType") -> "pa.DataType":
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_bytes(kind: "pa.DataType") -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_list_of_uint8(kind: "pa.DataType") -> bool:
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(lists and types.is_uint8(kind.value_type))


def _inner(kind: "pa.DataType") -> "pa.DataType":
    """Return the type of a struct's field `bytes`, or the type itself."""
    from pyarrow import types

    return kind.field("bytes").type if types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind


def _decoded(paths: Sequence[Path], positions: NDArray[np.int64], decoder: ImageDecoder) -> Pixels:
    stack, wanted = ImageStack(len(positions)), set(positions.tolist())
    for row, cell in enumerate(_cells(paths)):
        if row in wanted:
            try:
                stack.add(_pixels(cell, decoder))
            except Undecodable as fault:
                stack.refuse(str(fault))
    return stack.images()


def _cells(paths: Sequence[Path]) -> Iterator[Any]:
    """Yield one image cell after another; few are in memory at a time."""
    from pyarrow import parquet

    for path in paths:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=["image"]):
                yield from batch.column("image")


def _pixels(cell: Any, decoder: ImageDecoder) -> Pixels:
    """Return the pixels of an Arrow scalar. Raises Undecodable."""
    from pyarrow import types

    if types.is_struct(cell.type):
        cell = cell["bytes"] if cell.is_valid else cell
    if not cell.is_valid:
        raise Undecodable("are missing")
    if _is_list_of_uint8(cell.type):
        return decoder.flat(cell.values.to_numpy(zero_copy_only=False))
    return decoder.decode(cell.as_py())
