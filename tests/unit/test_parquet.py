"""Parquet: encoded images, structs and lists of numbers come out alike; what does not fit is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.unit.images import claiming, deep, encoded, moved_out, refusal
from workers import data
from workers.data.source import SourceArrays

COUNT = 6
IMAGES = [encoded(i) for i in range(COUNT)]
GOOD: dict[str, Any] = {
    "sample_id": [f"patient-{i}" for i in range(COUNT)],
    "image": pa.array(IMAGES),
    "label": [0, 1] * 3,
    "split": ["train"] * 4 + ["val", "test"],
}
VALUES = [(np.arange(60) + i).astype(np.uint8) for i in range(COUNT)]
DECODE = {"size": [4, 5], "mode": "rgb"}


def _written(folder: Path, **changes: Any) -> dict[str, Any]:
    columns = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    parquet.write_table(pa.table(columns), folder / "x.parquet", row_group_size=4)
    return {"source": "parquet", "path": str(folder / "x.parquet")}


def _read(folder: Path, *, decode: Any = None, subset: Any = None, **changes: Any) -> SourceArrays:
    return data.read({**_written(folder, **changes), "decode": decode, "subset": subset}, roots=[folder])


def test_rows_come_out_in_their_order(tmp_path: Path) -> None:
    found = _read(tmp_path)
    assert found.sample_ids == GOOD["sample_id"]
    assert found.labels.tolist() == GOOD["label"]
    assert found.splits == ["train"] * 4 + ["validation", "test"]
    assert found.images.shape == (6, 3, 4, 5)
    assert found.images[2, :, 0, 1].tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    "image",
    [
        pa.array(IMAGES, pa.large_binary()),
        pa.array([{"bytes": raw, "path": None} for raw in IMAGES]),
        pa.array(VALUES, pa.list_(pa.uint8())),
        pa.array(VALUES, pa.large_list(pa.uint8())),
        pa.array(VALUES, pa.list_(pa.uint8(), 60)),
    ],
)
def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path, image: Any) -> None:
    assert _read(tmp_path, image=image, decode=DECODE).digest() == _read(tmp_path).digest()


def test_repeated_texts_may_be_stored_as_a_dictionary(tmp_path: Path) -> None:
    split = pa.array(GOOD["split"]).dictionary_encode()
    assert _read(tmp_path, split=split).digest() == _read(tmp_path).digest()


def test_a_folders_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for part, (first, last) in {"b": (3, 6), "a": (0, 3)}.items():
        table = pa.table({name: value[first:last] for name, value in GOOD.items()})
        parquet.write_table(table, tmp_path / f"{part}.parquet")
    found = data.read({"source": "parquet", "path": str(tmp_path)}, roots=[tmp_path])
    assert found.sample_ids == GOOD["sample_id"]


def test_a_subset_is_balanced_and_alone_decoded(tmp_path: Path) -> None:
    found = _read(tmp_path, subset={"train": 2, "seed": 0}, image=pa.array([*IMAGES[:5], encoded(9)]))
    assert sorted(found.labels[:2].tolist()) == [0, 1]
    row = GOOD["sample_id"].index(found.sample_ids[1])
    assert found.images[1, 0, 0, 0] == row
    assert found.images[-1, 0, 0, 0] == 9


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"label": None}, "invalid_dataset", "label comes 0 times"),
        ({"image": None, "split": None}, "invalid_dataset", "split comes 0 times; image comes 0 times"),
        ({"label": ["0", "1"] * 3}, "invalid_dataset", "label is string"),
        ({"label": [0.0, 1.0] * 3}, "invalid_dataset", "label is double"),
        ({"sample_id": list(range(6)), "split": [1] * 6}, "invalid_dataset", "sample_id is int64; split is int64"),
        ({"image": ["x"] * 6}, "invalid_dataset", "image is string"),
        ({"image": [{"path": "x"}] * 6}, "invalid_dataset", "image is struct"),
        ({"image": pa.array([[1.0]] * 6)}, "invalid_dataset", "image is list"),
        ({"label": [0, None] * 3}, "invalid_dataset", "label has empty cells"),
        ({"sample_id": [*GOOD["sample_id"][:5], None]}, "invalid_dataset", "sample_id has empty cells"),
        ({"label": [0, 1000] * 3}, "invalid_dataset", "labels must be 0 to 999"),
        ({"label": [0, -1] * 3}, "invalid_dataset", "labels must be 0 to 999"),
        ({"label": pa.array([0, 2**64 - 1] * 3, pa.uint64())}, "invalid_dataset", "labels must be 0 to 999"),
        ({"label": [0] * 6}, "invalid_dataset", "two classes"),
        ({"sample_id": ["patient"] * 6}, "invalid_dataset", "comes twice"),
        ({"split": ["holdout"] * 6}, "invalid_dataset", "split must be"),
        ({"image": pa.array([*IMAGES[:5], b""])}, "invalid_images", "1 of 6 images cannot be decoded"),
        ({"image": pa.array([*IMAGES[:4], None, None])}, "invalid_images", "2 of 6 images are missing"),
        ({"image": pa.array([*IMAGES[:5], IMAGES[5][:-20]])}, "invalid_images", "1 of 6 images cannot be decoded"),
        ({"image": pa.array([*IMAGES[:5], claiming(50_000, 50_000)])}, "invalid_images", "pixels"),
        ({"image": pa.array([*IMAGES[:5], deep()])}, "invalid_images", "8 bits"),
        ({"image": pa.array([*IMAGES[:5], encoded(size=(5, 4))])}, "invalid_images", "differ in size"),
        ({"image": pa.array(VALUES, pa.list_(pa.uint8()))}, "invalid_images", "`decode.size` must be given"),
    ],
)
def test_what_does_not_fit_is_refused_without_naming_a_sample(
    tmp_path: Path, changes: dict[str, Any], code: str, told: str
) -> None:
    error = refusal(_written(tmp_path, **changes), tmp_path)
    assert (error.code, told in str(error)) == (code, True), str(error)


def test_lists_of_another_length_or_with_gaps_are_refused(tmp_path: Path) -> None:
    lists = [*VALUES[:4], VALUES[4][:-1], [None, *VALUES[5][1:].tolist()]]
    source = _written(tmp_path, image=pa.array(lists, pa.list_(pa.uint8())))
    error = refusal({**source, "decode": DECODE}, tmp_path)
    assert "2 of 6 images are not 4 x 5 x 3 values of uint8" in str(error)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "middle"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    source, path = _written(tmp_path), tmp_path / "x.parquet"
    raw = path.read_bytes()
    changed = {"cut": raw[:-9], "empty": b"", "noise": b"no Parquet", "middle": raw[:4] + bytes(400) + raw[404:]}
    path.write_bytes(changed[damage])
    assert refusal(source, tmp_path).code in ("source_unreadable", "invalid_images")


@pytest.mark.parametrize("inner", [False, True])
def test_links_out_of_the_roots_are_not_followed(tmp_path: Path, *, inner: bool) -> None:
    root = tmp_path / "roots"
    root.mkdir()
    source = _written(root)
    moved_out(root / "x.parquet", tmp_path / "outside.parquet")
    assert refusal({**source, "path": str(root)} if inner else source, root).code == "path_not_allowed"


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    assert refusal({"source": "parquet", "path": str(tmp_path)}, tmp_path).code == "source_file_missing"


def test_so_many_rows_that_memory_would_not_do_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.parquet._MAX_ROWS", 5)
    assert refusal(_written(tmp_path), tmp_path).code == "source_too_large"
