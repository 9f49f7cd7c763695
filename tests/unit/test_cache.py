"""The cache of decoded images appears whole or not at all, and what a broken-off write leaves lies in scratch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.data import cache
from workers.data.source import DataError, SourceArrays

ARRAYS = SourceArrays(
    sample_ids=[f"patient-{i}" for i in range(4)],
    images=np.full((4, 1, 2, 2), 9, np.uint8),
    labels=np.array([0, 1, 0, 1]),
    splits=["train"] * 4,
)


def _entry(tmp_path: Path) -> cache.Entry:
    scratch = tmp_path / "tmp" / "job_1-1"
    scratch.mkdir(parents=True, exist_ok=True)
    return cache.Entry(folder=tmp_path / "cache" / "ds_1", scratch=scratch)


def test_what_is_written_is_loaded(tmp_path: Path) -> None:
    entry = _entry(tmp_path)
    cache.write(entry, ARRAYS, "d")
    images, labels = cache.load(entry, {"source": "npz"}, "d", erased=[2], roots=[])
    assert images[:, 0, 0, 0].tolist() == [9, 9, 0, 9]
    assert labels.tolist() == [0, 1, 0, 1]
    assert list(entry.scratch.iterdir()) == []
    assert [path.name for path in entry.folder.parent.iterdir()] == ["ds_1"]


def test_a_broken_off_write_leaves_the_cache_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = _entry(tmp_path)
    cache.write(entry, ARRAYS, "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        cache.write(entry, ARRAYS, "new")
    assert [path.name for path in entry.folder.parent.iterdir()] == ["ds_1"]
    assert '"old"' in (entry.folder / "digest.json").read_text()
    assert list(entry.scratch.iterdir()), "the leftovers lie where the sweeper removes them"


def test_a_source_swapped_for_a_link_out_of_the_roots_is_not_decoded_again(tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    (tmp_path / "secret.npz").write_bytes(b"secret")
    (roots / "x.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(DataError) as refusal:
        cache.load(_entry(tmp_path), {"source": "npz", "path": str(roots / "x.npz")}, "d", erased=[], roots=[roots])
    assert refusal.value.code == "path_not_allowed"
