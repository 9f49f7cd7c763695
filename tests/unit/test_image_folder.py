"""Folders of images: what is read, under which ids, and that nothing huge, damaged or outside is decoded."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.images import claiming, deep, encoded, moved_out, refusal
from workers import data
from workers.data.decoding import MAX_PIXELS
from workers.data.source import SourceArrays

PLAIN = {
    "train/cat/patient-0.png": encoded(0),
    "train/cat/patient-1.png": encoded(1),
    "train/dog/patient-2.PNG": encoded(2),
    "train/dog/patient-3.png": encoded(3),
    "val/dog/patient-4.png": encoded(4),
    "test/cat/patient-5.png": encoded(5),
}
TINY = {
    "train/n01/images/patient-0.png": encoded(0),
    "train/n01/n01_boxes.txt": b"patient-0.png\t0\t0\t1\t1\n",
    "train/n02/images/patient-1.png": encoded(1),
    "val/images/patient-2.png": encoded(2),
    "val/images/patient-3.png": encoded(3),
    "val/val_annotations.txt": b"patient-3.png\tn01\t0\t0\t9\t9\npatient-2.png\tn02\t0\t0\t9\t9\n",
    "test/images/patient-4.png": encoded(4),
}


def _written(root: Path, files: dict[str, bytes]) -> dict[str, Any]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return {"source": "imagefolder", "root": str(root)}


def _read(root: Path, files: dict[str, bytes], **more: Any) -> SourceArrays:
    return data.read({**_written(root, files), **more}, roots=[root])


def test_ids_are_paths_and_classes_count_in_the_order_of_their_names(tmp_path: Path) -> None:
    found = _read(tmp_path, PLAIN)
    assert found.sample_ids == list(PLAIN)
    assert found.labels.tolist() == [0, 0, 1, 1, 1, 0]
    assert found.splits == ["train"] * 4 + ["validation", "test"]
    assert found.images.shape == (6, 3, 4, 5)
    assert found.images[2, :, 0, 0].tolist() == [2, 3, 4]


def test_tiny_imagenets_layout_is_read_and_its_test_images_are_left_out(tmp_path: Path) -> None:
    found = _read(tmp_path, TINY)
    ids = ["train/n01/images/patient-0.png", "train/n02/images/patient-1.png"]
    assert found.sample_ids == [*ids, "val/images/patient-2.png", "val/images/patient-3.png"]
    assert found.labels.tolist() == [0, 1, 1, 0]
    assert found.splits == ["train", "train", "validation", "validation"]
    assert found.images[3, 0, 0, 0] == 3


def test_images_of_unlike_kinds_become_one_kind_of_one_size(tmp_path: Path) -> None:
    kinds = {"L": "PNG", "RGBA": "PNG", "RGB": "JPEG", "CMYK": "JPEG", "LA": "PNG"}
    files = {
        f"train/{i % 2}/{mode}.{form.lower()}": encoded(mode=mode, form=form, size=(4 + i, 9))
        for i, (mode, form) in enumerate(kinds.items())
    }
    assert _read(tmp_path, files, decode={"size": [6, 7], "mode": "rgb"}).images.shape == (5, 3, 6, 7)
    assert _read(tmp_path, files, decode={"size": [6, 7], "mode": "grey"}).images.shape == (5, 1, 6, 7)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert("P")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    image.save(tmp_path / "train/cat/x.png", transparency=bytes(range(20)))
    assert len(_read(tmp_path, {"train/dog/y.png": encoded()})) == 2


def test_resizing_is_pillows_bilinear_with_its_own_smoothing(tmp_path: Path) -> None:
    found = _read(tmp_path, PLAIN, decode={"size": [2, 3], "mode": "rgb"})
    image = Image.open(tmp_path / "train/cat/patient-0.png").resize((3, 2), Image.Resampling.BILINEAR)
    assert (found.images[0].transpose(1, 2, 0) == np.asarray(image)).all()


def test_only_the_subset_is_decoded(tmp_path: Path) -> None:
    files = {**PLAIN, "val/dog/patient-4.png": b"damaged"}
    assert refusal(_written(tmp_path, files), tmp_path).code == "invalid_images"
    files = {name: content for name, content in files.items() if not name.startswith("val")}
    (tmp_path / "val/dog/patient-4.png").unlink()
    found = _read(tmp_path, {**files, "val/cat/x.png": encoded()}, subset={"train": 2, "test": 1, "seed": 3})
    assert sorted(found.labels[:2].tolist()) == [0, 1]
    assert found.splits == ["train", "train", "validation", "test"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be decoded"),
        (b"no image", "cannot be decoded"),
        (encoded(form="GIF", mode="L"), "cannot be decoded"),
        (encoded()[:-20], "cannot be decoded"),
        (encoded(form="JPEG", size=(64, 64))[:-200], "cannot be decoded"),
        (claiming(90, 90), "cannot be decoded"),
        (claiming(2**13, 2**12 + 1), f"more than {MAX_PIXELS} pixels"),
        (claiming(10_000, 10_000), f"more than {MAX_PIXELS} pixels"),
        (claiming(50_000, 50_000), f"more than {MAX_PIXELS} pixels"),
        (deep(), "more than 8 bits"),
        (encoded(size=(4, 6)), "differ in size"),
    ],
)
def test_images_that_cannot_be_used_are_counted_and_not_named(tmp_path: Path, content: bytes, told: str) -> None:
    error = refusal(_written(tmp_path, {**PLAIN, "train/dog/patient-3.png": content}), tmp_path)
    assert error.code == "invalid_images"
    assert f"1 of 6 images {told}" in str(error) or f"1 of 6 images have {told}" in str(error)


def test_every_kind_of_fault_is_told_at_once(tmp_path: Path) -> None:
    files = {**PLAIN, "train/dog/patient-3.png": b"", "test/cat/patient-5.png": deep(), "val/dog/patient-4.png": b""}
    told = str(refusal(_written(tmp_path, files), tmp_path))
    assert "2 of 6 images cannot be decoded" in told
    assert "1 of 6 images have more than 8 bits" in told


@pytest.mark.parametrize(
    ("files", "code", "told"),
    [
        ({}, "source_file_missing", "no folder `train`"),
        ({"cat/patient-0.png": encoded()}, "source_file_missing", "no folder `train`"),
        ({"train/cat/patient-0.png": encoded()}, "invalid_dataset", "1 class folders"),
        ({"train/cat/x.txt": b"", "train/dog/x.txt": b""}, "invalid_dataset", "holds an image"),
        ({**PLAIN, "test/bird/patient-9.png": encoded()}, "invalid_dataset", "`test` has 1 class folders"),
        ({**PLAIN, "valid/cat/patient-9.png": encoded()}, "invalid_dataset", "validation split"),
        ({**TINY, "val/val_annotations.txt": b"patient-2.png\tn02\n"}, "invalid_dataset", "1 images have no line"),
        ({**TINY, "val/images/patient-7.png": b""}, "invalid_dataset", "1 images have no line"),
        ({**TINY, "val/val_annotations.txt": b"patient-2.png n02\n"}, "source_unreadable", "without a tab"),
        ({**TINY, "val/val_annotations.txt": b"\xff\xfe\x00"}, "source_unreadable", "UTF-8"),
        (
            {**TINY, "val/val_annotations.txt": TINY["val/val_annotations.txt"] + b"../../x.png\tn01\n"},
            "invalid_dataset",
            "1 lines name a file that is not in `images`",
        ),
        (
            {**TINY, "val/val_annotations.txt": TINY["val/val_annotations.txt"] * 2},
            "invalid_dataset",
            "2 lines name a file again",
        ),
        (
            {**TINY, "val/val_annotations.txt": TINY["val/val_annotations.txt"].replace(b"n02", b"n09")},
            "invalid_dataset",
            "1 lines name a class",
        ),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path: Path, files: dict[str, bytes], code: str, told: str) -> None:
    error = refusal(_written(tmp_path, files), tmp_path)
    assert (error.code, told in str(error)) == (code, True), str(error)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (PLAIN, "train/cat/patient-0.png"),
        (PLAIN, "train/cat"),
        (PLAIN, "train"),
        (PLAIN, "val"),
        (TINY, "train/n01/images"),
        (TINY, "val/images"),
        (TINY, "val/val_annotations.txt"),
    ],
)
def test_links_out_of_the_roots_are_not_followed(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    root = tmp_path / "roots"
    source = _written(root, files)
    moved_out(root / name, tmp_path / "outside.png")
    assert refusal(source, root).code == "path_not_allowed"


def test_links_inside_the_roots_are_followed_and_pipes_are_not_opened(tmp_path: Path) -> None:
    _written(tmp_path / "a", PLAIN)
    os.mkfifo(tmp_path / "a/train/cat/pipe.png")
    moved_out(tmp_path / "a/train/dog", tmp_path / "dogs")
    found = data.read({"source": "imagefolder", "root": str(tmp_path / "a")}, roots=[tmp_path])
    assert found.sample_ids == list(PLAIN)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    source = _written(tmp_path, PLAIN)
    (tmp_path / "train/cat" / os.fsdecode(b"patient-\xff.png")).write_bytes(encoded())
    assert refusal(source, tmp_path).code == "invalid_dataset"


def test_so_many_images_that_memory_would_not_do_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.decoding.MAX_UNPACKED_BYTES", 6 * 60 - 1)
    assert refusal(_written(tmp_path, PLAIN), tmp_path).code == "source_too_large"
