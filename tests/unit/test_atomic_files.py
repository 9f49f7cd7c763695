"""A file that two processes make at once is made by one of them, whole, with hard links and without."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service import atomic_files
from service.artifacts import IDENTITY, ArtifactStore
from service.erasure_journal import Journal, Segment
from service.settings import key_file
from workers import caches

MAKERS = 8


@pytest.fixture(params=["links", errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with hard links, and one of each kind that refuses them."""
    if request.param != "links":

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(os, "link", refuse)
    return tmp_path


def _at_once(make: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(MAKERS) as pool:
        return list(pool.map(make, range(MAKERS)))


def test_of_several_that_give_a_name_one_does(folder: Path) -> None:
    target = folder / "named"

    def name(number: int) -> bool:
        scratch = folder / f"scratch-{number}"
        scratch.write_text(f"{number} is whole")
        try:
            atomic_files.name_once(scratch, target)
        except FileExistsError:
            return False
        return target.read_text() == f"{number} is whole"

    assert _at_once(name).count(True) == 1
    assert [path.name for path in folder.iterdir()] == ["named"]


def test_processes_that_start_together_agree_on_one_master_key(folder: Path) -> None:
    assert len(set(_at_once(lambda _: key_file(folder / "data" / "master.key")))) == 1
    assert (folder / "data" / "master.key").stat().st_mode & 0o777 == 0o600


def test_workers_that_start_together_agree_on_the_name_of_their_caches(folder: Path) -> None:
    assert len(set(_at_once(lambda _: caches.place_of(folder)))) == 1


def test_a_segment_of_the_erasure_journal_is_written_once(folder: Path) -> None:
    def append(number: int) -> bool:
        segment = Segment(number=1, journal=f"jnl_{number}", first=0, end=0, last_leaf="")
        try:
            Journal(str(folder / "erasures"), b"k" * 32).append(segment)
        except FileExistsError:
            return False
        return True

    assert _at_once(append).count(True) == 1
    (found,) = Journal(str(folder / "erasures"), b"k" * 32).whole()
    assert found.number == 1


def test_an_artifact_store_is_named_once(folder: Path) -> None:
    _at_once(lambda number: ArtifactStore(str(folder / "store")).identify(f"ast_{number}"))
    assert [path.name for path in (folder / "store").iterdir()] == [IDENTITY]


def test_what_cannot_be_written_at_all_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    (tmp_path / "scratch").write_text("x")
    with pytest.raises(OSError, match="No space left"):
        atomic_files.name_once(tmp_path / "scratch", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
