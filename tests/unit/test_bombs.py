"""Small files that unpack to a lot, and files that are none: refused by a stated limit before memory is spent."""

import gzip
import io
import multiprocessing
import os
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.unit.images import claiming, encoded
from workers import data
from workers.data.source import MAX_UNPACKED_BYTES, DataError

MIB = 2**20
BOMB = 512 * MIB
MOST_GROWTH = 200 * MIB
COUNT = 8
PLAIN: dict[str, Any] = {
    "sample_id": np.array([f"patient-{i}" for i in range(COUNT)]),
    "image": np.zeros((COUNT, 4, 4), np.uint8),
    "label": np.array([0, 1] * (COUNT // 2)),
    "split": np.array(["train"] * 6 + ["val", "test"]),
}


def _attempt(source: dict[str, Any], root: str, answer: Any) -> None:
    """Read a source, and send how that ended and by how many bytes the process's peak grew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        data.read(source, roots=[Path(root)])
        told = ("read", "")
    except DataError as refusal:
        told = (refusal.code, str(refusal))
    answer.send((*told, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))


def _refused(source: dict[str, Any], root: Path) -> tuple[str, str]:
    """Return code and message of the refusal, which a fresh process came to without much memory or time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_attempt, args=(source, str(root), there))
    process.start()
    there.close()  # or nobody would notice a process that ends without an answer
    try:
        assert here.poll(90), "no answer in 90 s"
        code, message, growth = here.recv()
    finally:
        process.kill()
        process.join()
    assert growth < MOST_GROWTH, f"{growth / MIB:.0f} MiB more at the peak"
    assert "patient" not in message
    assert str(root) not in message
    return code, message


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": kind})
    return file.getvalue()


def _npz(folder: Path, **members: Callable[[Any], Any] | bytes) -> dict[str, Any]:
    path = folder / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in PLAIN.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                content = members.get(name, _npy(array))
                file.write(content) if isinstance(content, bytes) else content(file)
    return {"source": "npz", "path": str(path)}


def _zeros(file: Any, count: int = BOMB) -> None:
    for _ in range(count // MIB):
        file.write(bytes(MIB))


def _wide_ids(file: Any) -> None:
    file.write(_header((COUNT,), f"<U{BOMB // COUNT // 4}"))
    _zeros(file)


def _more_than_told(file: Any) -> None:
    file.write(_header((COUNT, 4, 4)))
    _zeros(file)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("sample_id", _wide_ids, "invalid_dataset"),
        ("image", _more_than_told, "source_unreadable"),
        ("image", _header((10**9, 1000, 1000)), "source_unreadable"),
        ("image", _header((2**62, 2**62, 4)), "source_unreadable"),
        ("label", _header((10**12,), "<i8"), "source_unreadable"),
    ],
)
def test_an_array_that_is_not_what_its_header_says_is_not_unpacked(
    tmp_path: Path, name: str, content: Any, code: str
) -> None:
    assert _refused(_npz(tmp_path, **{name: content}), tmp_path)[0] == code


def test_an_archive_that_says_it_holds_too_much_is_refused_by_the_limit(tmp_path: Path) -> None:
    source = _npz(tmp_path)
    raw = bytearray(Path(source["path"]).read_bytes())
    told = raw.rindex(b"PK\x01\x02")  # the last entry of the directory: split.npy
    struct.pack_into("<I", raw, told + 24, 0xFFFFFFFE)
    huge = Path(source["path"])
    huge.write_bytes(bytes(raw))
    assert _refused(source, tmp_path)[0] in ("source_unreadable", "source_too_large")


@pytest.mark.parametrize("width", [50_000, 2**31 - 1])
def test_a_huge_image_is_refused_by_its_header(tmp_path: Path, width: int) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_bytes(encoded() if name == "b" else claiming(width, width))
    code, message = _refused({"source": "imagefolder", "root": str(tmp_path)}, tmp_path)
    assert code == "invalid_images"
    assert "33554432 pixels" in message


def _fashion(root: Path, content: Callable[[Path], None]) -> dict[str, Any]:
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (root / name).write_bytes(bytes((0, 0, 8, 3)))
    content(root / "train-images-idx3-ubyte.gz")
    (root / "train-images-idx3-ubyte").unlink()
    return {"source": "torchvision:FashionMNIST", "root": str(root)}


@pytest.mark.parametrize(
    ("shape", "code"),
    [((COUNT, 4, 4), "source_unreadable"), ((2**31, 2**10, 2**10), "source_too_large")],
)
def test_zeros_behind_an_idx_header_are_not_unpacked(tmp_path: Path, shape: tuple[int, ...], code: str) -> None:
    def bomb(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            file.write(bytes((0, 0, 8, 3)) + struct.pack(">3I", *shape))
            _zeros(file)

    assert _refused(_fashion(tmp_path, bomb), tmp_path)[0] == code


def test_a_file_of_holes_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "data_batch_1.bin").open("wb") as file:
        file.truncate(MAX_UNPACKED_BYTES + 1)
    code, message = _refused({"source": "torchvision:CIFAR10", "root": str(tmp_path)}, tmp_path)
    assert (code, str(MAX_UNPACKED_BYTES) in message) == ("source_too_large", True)


def _parquet(folder: Path, **columns: Any) -> dict[str, Any]:
    table = pa.table({**{name: columns.get(name, array) for name, array in _COLUMNS.items()}})
    # Without the Arrow schema a reader sees plain texts and bytes, each cell with all of its bytes.
    parquet.write_table(table, folder / "x.parquet", compression="zstd", store_schema=False)
    return {"source": "parquet", "path": str(folder / "x.parquet")}


def _same(value: Any, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))


_ROWS = 128
_COLUMNS: dict[str, Any] = {
    "sample_id": [f"patient-{i}" for i in range(_ROWS)],
    "image": [encoded()] * _ROWS,
    "label": [0, 1] * (_ROWS // 2),
    "split": ["train"] * _ROWS,
}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"sample_id": _same("x" * (2 * MIB), _ROWS)}, "invalid_dataset"),
        ({"split": _same("x" * (2 * MIB), _ROWS)}, "invalid_dataset"),
        ({"image": _same(bytes(8 * MIB), _ROWS)}, "invalid_images"),
        ({"image": pa.StructArray.from_arrays([_same(bytes(8 * MIB), _ROWS)], ["bytes"])}, "invalid_images"),
    ],
)
def test_a_value_that_comes_again_and_again_is_unpacked_once(
    tmp_path: Path, columns: dict[str, Any], code: str
) -> None:
    source = _parquet(tmp_path, **columns)
    assert Path(source["path"]).stat().st_size < MIB
    assert _refused(source, tmp_path)[0] == code


def test_a_file_whose_footer_tells_of_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.parquet.MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to over 1000 bytes") as refusal:
        data.read(_parquet(tmp_path), roots=[tmp_path])
    assert refusal.value.code == "source_too_large"


def test_a_list_of_more_values_than_any_image_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.parquet._MAX_VALUES", 40)
    values = pa.array([[0] * 48] * _ROWS, pa.list_(pa.uint8()))
    with pytest.raises(DataError) as refusal:
        data.read({**_parquet(tmp_path, image=values), "decode": {"size": [4, 4]}}, roots=[tmp_path])
    assert refusal.value.code == "source_too_large"


@pytest.mark.parametrize("source", ["npz", "parquet"])
@pytest.mark.parametrize("kind", ["fifo", "device", "socket", "folder"])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, source: str, kind: str) -> None:
    path, roots = tmp_path / "x", [tmp_path]
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path, roots = Path("/dev/zero"), [Path("/dev")]
    elif kind == "socket":
        os.mknod(path, 0o600 | 0o140000)
    else:
        path.mkdir()
    with pytest.raises(DataError) as refusal:
        data.read({"source": source, "path": str(path)}, roots=roots)
    assert refusal.value.code == "source_file_missing"


@pytest.mark.parametrize("name", ["data_batch_1.bin", "train-images-idx3-ubyte.gz", "train_32x32.mat"])
def test_a_pipe_in_a_dataset_folder_is_as_good_as_missing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    kinds = {"data": "torchvision:CIFAR10", "train-": "torchvision:FashionMNIST", "train_": "torchvision:SVHN"}
    kind = next(kind for start, kind in kinds.items() if name.startswith(start))
    with pytest.raises(DataError) as refusal:
        data.read({"source": kind, "root": str(tmp_path)}, roots=[tmp_path])
    assert refusal.value.code == "source_file_missing"
