"""CIFAR-10, CIFAR-100 and SVHN from tiny files of their own formats; what is damaged or pickled is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from tests.unit.images import moved_out, refusal
from workers import data
from workers.data.source import SourceArrays

CIFAR10 = {**{f"data_batch_{i}.bin": 2 for i in range(1, 6)}, "test_batch.bin": 3}
CIFAR100 = {"train.bin": 4, "test.bin": 3}
FOLDERS = {"CIFAR10": "cifar-10-batches-bin", "CIFAR100": "cifar-100-binary", "SVHN": "svhn"}
FIRST = {"CIFAR10": "data_batch_1.bin", "CIFAR100": "train.bin", "SVHN": "train_32x32.mat"}
LAST = {"CIFAR10": "test_batch.bin", "CIFAR100": "test.bin", "SVHN": "test_32x32.mat"}


def _record(labels: list[int], value: int) -> bytes:
    """Return one record: 1024 bytes of red, of green, of blue, row by row."""
    return bytes(labels) + bytes([value]) * 1024 + bytes([value + 1]) * 1024 + bytes(range(256)) * 4


def _write(root: Path, name: str) -> dict[str, Any]:
    root.mkdir(parents=True, exist_ok=True)
    if name == "SVHN":
        for file, count in (("train_32x32.mat", 5), ("test_32x32.mat", 4)):
            _svhn(root / file, count)
    for file, count in {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100, "SVHN": {}}[name].items():
        coarse = [7] if name == "CIFAR100" else []
        (root / file).write_bytes(b"".join(_record([*coarse, i % 2 + 5], 10 * i) for i in range(count)))
    return {"source": f"torchvision:{name}", "root": str(root)}


def _svhn(path: Path, count: int, **changes: Any) -> None:
    x = np.zeros((32, 32, 3, count), np.uint8)
    x[1, 2] = np.arange(3)[:, None] * 10 + np.arange(count)
    y = np.array([[10, 1, 2][i % 3] for i in range(count)], np.uint8)[:, None]
    arrays = {"X": x, "y": y, **changes}
    savemat(path, {name: value for name, value in arrays.items() if value is not None}, do_compression=True)


def _read(source: dict[str, Any]) -> SourceArrays:
    return data.read(source, roots=[Path(source["root"])])


@pytest.mark.parametrize(("name", "train"), [("CIFAR10", 10), ("CIFAR100", 4)])
def test_cifar_is_read_red_green_blue_row_by_row(tmp_path: Path, name: str, train: int) -> None:
    found = _read(_write(tmp_path, name))
    assert found.sample_ids == [*(f"train/{i}" for i in range(train)), "test/0", "test/1", "test/2"]
    assert found.splits == ["train"] * train + ["test"] * 3
    assert found.labels.tolist() == [5, 6] * (train // 2) + [5, 6, 5]
    assert found.images.shape == (train + 3, 3, 32, 32)
    assert found.images[-1, :, 0, 1].tolist() == [20, 21, 1]
    assert found.images[-1, 2, 1, 0] == 32


def test_svhn_is_read_with_ten_for_zero(tmp_path: Path) -> None:
    found = _read(_write(tmp_path, "SVHN"))
    assert found.sample_ids == [*(f"train/{i}" for i in range(5)), *(f"test/{i}" for i in range(4))]
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 0]
    assert found.images.shape == (9, 3, 32, 32)
    assert found.images[4, :, 1, 2].tolist() == [4, 14, 24]


@pytest.mark.parametrize("name", FIRST)
def test_files_are_found_in_the_folder_that_their_archive_unpacks_to(tmp_path: Path, name: str) -> None:
    _write(tmp_path / FOLDERS[name], name)
    assert len(_read({"source": f"torchvision:{name}", "root": str(tmp_path)}))


@pytest.mark.parametrize("name", FIRST)
def test_a_subset_is_taken(tmp_path: Path, name: str) -> None:
    found = _read({**_write(tmp_path, name), "subset": {"train": 4, "test": 2, "seed": 0}})
    assert found.splits == ["train"] * 4 + ["test"] * 2


@pytest.mark.parametrize("name", FIRST)
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "missing"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    source, path = _write(tmp_path, name), tmp_path / LAST[name]
    raw = path.read_bytes()
    path.unlink()
    changed = {"cut": raw[: len(raw) // 2], "empty": b"", "noise": b"\x07" + raw[:200], "missing": None}[damage]
    if changed is not None:
        path.write_bytes(changed)
    error = refusal(source, tmp_path)
    assert error.code == ("source_file_missing" if damage == "missing" else "source_unreadable")
    assert LAST[name] in str(error)


@pytest.mark.parametrize(("name", "label"), [("CIFAR10", [10]), ("CIFAR100", [1, 100])])
def test_labels_beyond_the_classes_are_refused(tmp_path: Path, name: str, label: list[int]) -> None:
    source = _write(tmp_path, name)
    (tmp_path / LAST[name]).write_bytes(_record(label, 0))
    assert "labels above" in str(refusal(source, tmp_path))


def test_a_batch_cut_off_between_two_records_is_noticed(tmp_path: Path) -> None:
    source, path = _write(tmp_path, "CIFAR10"), tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:3073])
    assert "unequal numbers" in str(refusal(source, tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"X": np.zeros((32, 32, 3, 4), np.float64)},
        {"X": np.zeros((32, 32, 4), np.uint8)},
        {"X": np.zeros((28, 28, 3, 4), np.uint8)},
        {"X": np.zeros((32, 32, 3, 3), np.uint8)},
        {"X": None},
        {"y": None},
        {"y": np.array([[1, 2, 3, 11]], np.uint8)},
        {"y": np.array([[1, 2, 3, 0]], np.uint8)},
        {"y": np.array([[1, 2, 3, 1.5]])},
        {"y": np.array([["a", "b", "c", "d"]], dtype=object)},
        {"X": {"field": 1}},
    ],
)
def test_svhn_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = _write(tmp_path, "SVHN")
    _svhn(tmp_path / "test_32x32.mat", 4, **changes)
    assert refusal(source, tmp_path).code == "source_unreadable"


def test_what_unpacks_to_too_much_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _write(tmp_path, "SVHN")
    monkeypatch.setattr("workers.data.svhn.MAX_UNPACKED_BYTES", 4 * 3072)
    assert refusal(source, tmp_path).code == "source_too_large"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("CIFAR10", "cifar-10-batches-py/data_batch_1"),
        ("CIFAR10", "data_batch_1"),
        ("CIFAR100", "cifar-100-python/train"),
        ("CIFAR100", "train"),
    ],
)
def test_the_pickled_version_is_refused_unopened(tmp_path: Path, name: str, place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(pickle.dumps({b"data": [1], b"labels": [1]}))
    error = refusal({"source": f"torchvision:{name}", "root": str(tmp_path)}, tmp_path)
    assert error.code == "source_is_pickled"
    assert "binary.tar.gz" in str(error)


@pytest.mark.parametrize("name", FIRST)
def test_links_out_of_the_roots_are_not_followed(tmp_path: Path, name: str) -> None:
    root = tmp_path / "roots"
    source = _write(root, name)
    moved_out(root / LAST[name], tmp_path / "outside")
    assert refusal(source, root).code == "path_not_allowed"
