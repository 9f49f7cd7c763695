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
from workers.data.source import (
    MAX_CLASSES,
    MAX_ID_LENGTH,
    MAX_UNPACKED_BYTES,
    SPLIT_ALIASES,
    DataError,
    SourceArrays,
    subset_positions,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

_BATCH, _BATCH_BYTES = 64, 2**25
_MAX_ROWS = 10**8
_SMALL = ("sample_id", "label", "split")
_MAX_TEXT_BYTES = 4 * MAX_ID_LENGTH
_MAX_VALUES = 4 * 1024 * 1024
"""Of one image that is a list of numbers."""

# A value that comes a million times is in a file once, and stays so in memory.
_AS_DICTIONARY = ("sample_id", "split", "image")


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
    rows: dict[str, list[Any]] = {name: [] for name in _SMALL}
    for path in paths:
        with _opened(path) as file:
            _refuse(_schema_faults(file.schema_arrow))
            _refuse_large(file.metadata)
            if sum(map(len, rows.values())) + 3 * file.metadata.num_rows > 3 * _MAX_ROWS:
                raise DataError("source_too_large", f"There are over {_MAX_ROWS} rows.")
            for batch in file.iter_batches(_BATCH * _BATCH, columns=list(_SMALL)):
                for name in _SMALL:
                    rows[name] += _cells_of(batch.column(name))
    _refuse([f"{name} has empty cells" for name in _SMALL if None in rows[name]])
    _refuse([f"labels must be 0 to {MAX_CLASSES - 1}"] if not all(0 <= n < MAX_CLASSES for n in rows["label"]) else [])
    return rows


def _opened(path: Path) -> "ParquetFile":
    from pyarrow import parquet

    columns = parquet.read_metadata(path).schema
    there = {columns.column(i).path for i in range(len(columns))}
    return parquet.ParquetFile(path, read_dictionary=[name for name in _AS_DICTIONARY if name in there])


def _refuse_large(metadata: Any) -> None:
    """Raise DataError for what the footer says is too much, before any of it is unpacked."""
    unpacked = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked += column.total_uncompressed_size
            if column.num_values > group.num_rows * _MAX_VALUES:
                raise DataError("source_too_large", f"An image has over {_MAX_VALUES} values.")
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError("source_too_large", f"The file unpacks to over {MAX_UNPACKED_BYTES} bytes.")


def _cells_of(column: Any) -> list[Any]:
    """Return an Arrow column as Python's values. Raises DataError for texts that are too long to be ids."""
    from pyarrow import compute, types

    texts = column.dictionary if types.is_dictionary(column.type) else column
    if _is_text(texts.type) and (compute.max(compute.binary_length(texts)).as_py() or 0) > _MAX_TEXT_BYTES:
        raise DataError("invalid_dataset", f"sample_id and split have {MAX_ID_LENGTH} characters at most.")
    cells: list[Any] = column.to_pylist()
    return cells


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

    is_struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    return _plain(kind.field("bytes").type) if is_struct else kind


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
    for path in paths:
        with _opened(path) as file:
            for batch in file.iter_batches(_rows_at_once(file.metadata), columns=["image"]):
                yield from batch.column("image")


def _rows_at_once(metadata: Any) -> int:
    """Return so few rows that their images are not too much, though each were as large as all of its row group.

    Arrow makes no dictionary of what is within a struct, so there a value that repeats is in memory for each row.
    """
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    largest = max((c.total_uncompressed_size for c in columns if c.path_in_schema == "image.bytes"), default=1)
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, largest)))


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
