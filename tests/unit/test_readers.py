"""Readers take what fits and refuse the rest by a stable code, without unpickling and without naming a sample."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers import data
from workers.data.source import DataError

GOOD: dict[str, Any] = {
    "sample_id": np.array([f"patient-{i}" for i in range(8)]),
    "image": np.arange(8 * 6 * 5, dtype=np.uint8).reshape(8, 6, 5),
    "label": np.array([0, 1] * 4),
    "split": np.array(["train"] * 6 + ["val", "test"]),
}


class _Evil:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _npz(folder: Path, subset: dict[str, int] | None = None, **changes: Any) -> Any:
    arrays = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    np.savez(folder / "x.npz", **arrays)
    return data.read({"source": "npz", "path": str(folder / "x.npz"), "subset": subset}, roots=[folder])


@pytest.mark.parametrize(("shape", "expected"), [((8, 6, 5), (8, 1, 6, 5)), ((8, 6, 5, 3), (8, 3, 6, 5))])
def test_images_come_out_channels_first(tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = _npz(tmp_path, image=image)
    assert found.images.shape == expected
    assert (found.images[:, 0] == (image if image.ndim == 3 else image[..., 0])).all()
    assert found.splits == ["train"] * 6 + ["validation", "test"]
    assert found.sample_ids[0] == "patient-0"


def test_byte_strings_are_text_too(tmp_path: Path) -> None:
    found = _npz(tmp_path, sample_id=np.char.encode(GOOD["sample_id"]), split=np.char.encode(GOOD["split"]))
    assert found.digest() == _npz(tmp_path).digest()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"label": None}, "invalid_dataset"),
        ({"image": GOOD["image"].astype(np.float32)}, "invalid_dataset"),
        ({"image": GOOD["image"].astype(np.uint16)}, "invalid_dataset"),
        ({"image": GOOD["image"][:, :, 0]}, "invalid_dataset"),
        ({"image": np.zeros((8, 2, 2, 5), np.uint8)}, "invalid_dataset"),
        ({"label": np.array([0.5] * 8)}, "invalid_dataset"),
        ({"label": np.array([0, -1] * 4)}, "invalid_dataset"),
        ({"label": np.array([0, 5000] * 4)}, "invalid_dataset"),
        ({"label": np.zeros(8, int)}, "invalid_dataset"),
        ({"label": np.array([0, 1])}, "invalid_dataset"),
        ({"sample_id": np.array(["patient-0"] * 8)}, "invalid_dataset"),
        ({"sample_id": np.array(["", *GOOD["sample_id"][1:]])}, "invalid_dataset"),
        ({"sample_id": np.array(["x" * 600, *GOOD["sample_id"][1:]])}, "invalid_dataset"),
        ({"sample_id": np.arange(8)}, "invalid_dataset"),
        ({"sample_id": np.array(["patient\x00-0", *GOOD["sample_id"][1:]])}, "invalid_dataset"),
        ({"sample_id": np.array(["\x00patient-0", *GOOD["sample_id"][1:]])}, "invalid_dataset"),
        ({"sample_id": np.array([b"patient\x00-0", *np.char.encode(GOOD["sample_id"][1:])])}, "invalid_dataset"),
        ({"sample_id": np.array(["patient\ud800", *GOOD["sample_id"][1:]])}, "invalid_dataset"),
        ({"sample_id": np.array([b"patient\xff", *np.char.encode(GOOD["sample_id"][1:])])}, "invalid_dataset"),
        ({"sample_id": np.full((8, 4), 0x110000, np.uint32).view("U4")[:, 0]}, "invalid_dataset"),
        ({"split": np.array([b"tr\xffain"] * 8)}, "invalid_dataset"),
        ({"split": np.array(["holdout"] * 8)}, "invalid_dataset"),
        ({"split": np.array(["test"] * 8)}, "invalid_dataset"),
        ({"subset": {"train": 7}}, "subset_too_large"),
    ],
)
def test_what_does_not_fit_is_refused_without_naming_a_sample(
    tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(DataError) as refusal:
        _npz(tmp_path, **changes)
    assert refusal.value.code == code
    assert "patient" not in str(refusal.value)


def test_object_arrays_are_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Python objects") as refusal:
        _npz(tmp_path, sample_id=np.array([_Evil(tmp_path / "unpickled")] * 8, dtype=object))
    assert refusal.value.code == "source_unreadable"
    assert not (tmp_path / "unpickled").exists()
    np.load(tmp_path / "x.npz", allow_pickle=True)["sample_id"]
    assert (tmp_path / "unpickled").exists(), "this archive does no harm even where it is unpickled"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04broken"])
def test_a_file_that_is_no_archive_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError) as refusal:
        data.read({"source": "npz", "path": str(tmp_path / "x.npz")}, roots=[tmp_path])
    assert refusal.value.code == "source_unreadable"


def test_a_subset_is_seeded_balanced_and_in_order(tmp_path: Path) -> None:
    found = _npz(tmp_path, subset={"train": 4, "seed": 1})
    assert len(found) == 6
    assert sorted(found.labels[:4].tolist()) == [0, 0, 1, 1]
    assert found.sample_ids == sorted(found.sample_ids)
    assert found.digest() == _npz(tmp_path, subset={"train": 4, "seed": 1}).digest()


@pytest.mark.parametrize("field", ["sample_id", "image", "label", "split"])
def test_the_digest_covers_every_array(tmp_path: Path, field: str) -> None:
    changed = GOOD[field].copy()
    changed[0] = {"sample_id": "other", "image": 77, "label": 1, "split": "val"}[field]
    assert _npz(tmp_path, **{field: changed}).digest() != _npz(tmp_path).digest()


def _idx(array: np.ndarray[Any, Any]) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _fashion(root: Path) -> Any:
    return data.read({"source": "torchvision:FashionMNIST", "root": str(root)}, roots=[root])


def _write_fashion(root: Path, *, compressed: bool = False) -> None:
    pixels = np.arange(12, dtype=np.uint8)
    for stem, count in (("train", 4), ("t10k", 2)):
        images = (
            np.broadcast_to(pixels.reshape(1, 3, 4), (count, 3, 4)) + np.arange(count, dtype=np.uint8)[:, None, None]
        )
        labels = np.array([0, 1] * (count // 2), np.uint8)
        for name, array in ((f"{stem}-images-idx3-ubyte", images), (f"{stem}-labels-idx1-ubyte", labels)):
            raw = _idx(array)
            (root / (name + ".gz" if compressed else name)).write_bytes(gzip.compress(raw) if compressed else raw)


@pytest.mark.parametrize("folder", [".", "raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_are_found_plain_or_gzipped(tmp_path: Path, folder: str, *, compressed: bool) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    _write_fashion(tmp_path / folder, compressed=compressed)
    found = _fashion(tmp_path)
    assert found.sample_ids == ["train/0", "train/1", "train/2", "train/3", "test/0", "test/1"]
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.images.shape == (6, 1, 3, 4)
    assert found.images[3, 0, 0].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("damage", ["cut", "magic", "gzip", "missing"])
def test_damaged_idx_files_are_refused(tmp_path: Path, damage: str) -> None:
    _write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte"
    raw = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(raw[:-1])
    if damage == "magic":
        path.write_bytes(b"\x01" + raw[1:])
    if damage == "gzip":
        Path(f"{path}.gz").write_bytes(gzip.compress(raw)[:-9])
    with pytest.raises(DataError) as refusal:
        _fashion(tmp_path)
    assert refusal.value.code == ("source_file_missing" if damage == "missing" else "source_unreadable")


def _linked(link: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link.rename(target)
    link.symlink_to(target)


def test_a_file_that_is_a_link_out_of_the_roots_is_not_opened(tmp_path: Path) -> None:
    roots, outside = tmp_path / "roots", tmp_path / "outside"
    roots.mkdir()
    _npz(roots)
    _linked(roots / "x.npz", outside / "x.npz")
    with pytest.raises(DataError) as refusal:
        data.read({"source": "npz", "path": str(roots / "x.npz")}, roots=[roots])
    assert refusal.value.code == "path_not_allowed"
    assert str(outside) not in str(refusal.value)


@pytest.mark.parametrize("place", ["the folder", "one file"])
def test_idx_files_behind_a_link_out_of_the_roots_are_not_opened(tmp_path: Path, place: str) -> None:
    roots, outside = tmp_path / "roots", tmp_path / "outside"
    (roots / "raw").mkdir(parents=True)
    _write_fashion(roots / "raw")
    name = "raw" if place == "the folder" else "raw/t10k-images-idx3-ubyte"
    _linked(roots / name, outside / name)
    with pytest.raises(DataError) as refusal:
        _fashion(roots)
    assert refusal.value.code == "path_not_allowed"


def test_a_link_from_one_root_to_another_is_followed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    expected = _npz(one).digest()
    _linked(one / "x.npz", two / "x.npz")
    assert data.read({"source": "npz", "path": str(one / "x.npz")}, roots=[one, two]).digest() == expected


@pytest.mark.parametrize("target", ["x.npz", "nothing"])
def test_a_link_in_a_circle_or_to_nothing_outside_is_not_allowed_either(tmp_path: Path, target: str) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    (roots / "x.npz").symlink_to(roots / target if target == "x.npz" else tmp_path / target)
    with pytest.raises(DataError) as refusal:
        data.read({"source": "npz", "path": str(roots / "x.npz")}, roots=[roots])
    assert refusal.value.code in ("path_not_allowed", "source_file_missing")
    assert (refusal.value.code == "path_not_allowed") or target == "x.npz"


def test_without_roots_no_file_is_opened(tmp_path: Path) -> None:
    _npz(tmp_path)
    with pytest.raises(DataError) as refusal:
        data.read({"source": "npz", "path": str(tmp_path / "x.npz")}, roots=[])
    assert refusal.value.code == "path_not_allowed"
