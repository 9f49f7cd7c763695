"""The artifact store's law: what `put` returned a digest for is there byte for byte, until it is purged."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.artifacts import ArtifactStore, file_digest
from service.errors import NotFound, PreconditionFailed


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    """A folder, and a store that is no folder, as an object store is not."""
    if request.param == "local":
        yield ArtifactStore(str(tmp_path / "artifacts"))
        return
    yield ArtifactStore(f"memory://{tmp_path.name}")
    fsspec.filesystem("memory").store.clear()


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "given"
    path.write_bytes(content)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(st.binary(max_size=3000))
def test_bytes_come_back_as_they_went_in(store: ArtifactStore, tmp_path: Path, content: bytes) -> None:
    digest = store.put(_file(tmp_path, content))
    assert digest == hashlib.sha256(content).hexdigest()
    with store.open(digest) as file:
        assert file.read() == content
    store.fetch(digest, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    assert store.size(digest) == len(content)


def test_putting_twice_keeps_one(store: ArtifactStore, tmp_path: Path) -> None:
    first, second = store.put(_file(tmp_path, b"same")), store.put(_file(tmp_path, b"same"))
    assert first == second
    assert store.older_than(-60) == [first]
    assert store.older_than(60) == []


def test_another_digest_than_stated_stores_nothing(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed):
        store.put(_file(tmp_path, b"x"), sha256="0" * 64)
    assert store.size(hashlib.sha256(b"x").hexdigest()) is None


def test_purged_bytes_are_gone_and_purging_again_is_fine(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(_file(tmp_path, b"secret"))
    kept = store.put(_file(tmp_path, b"other"))
    assert store.purge(digest)
    assert store.purge(digest)
    assert store.size(digest) is None
    assert store.size(kept) == 5
    with pytest.raises(NotFound), store.open(digest):
        pass


def test_bytes_that_cannot_be_asked_for_are_not_called_absent(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put(_file(tmp_path, b"secret"))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(store._fs, "info", refuse)
    with pytest.raises(PermissionError):
        store.purge(digest)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_what_is_not_a_digest_names_no_file(store: ArtifactStore, name: str) -> None:
    with pytest.raises(NotFound), store.open(name):
        pass


def test_a_local_file_that_changed_is_noticed(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    digest = store.put(_file(tmp_path, b"honest"))
    stored = store.local_path(digest)
    assert stored is not None
    assert file_digest(stored) == digest
    stored.write_bytes(b"forged")
    with pytest.raises(PreconditionFailed):
        store.fetch(digest, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


def test_nothing_is_left_beside_the_digests(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    digest = store.put(_file(tmp_path, b"x"))
    assert store.writable()
    files = [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert [path.name for path in files] == [digest]


def test_what_a_put_that_died_left_is_removed_once_it_is_old(store: ArtifactStore, tmp_path: Path) -> None:
    digest = store.put(_file(tmp_path, b"kept"))
    for name in ("part-old", "part-new"):
        store._fs.pipe_file(f"{store._root}/{name}", b"weights")
    assert store.remove_parts(60) == 0
    assert store.remove_parts(-60) == 2
    assert store.size(digest) == 4
    assert not [path for path in store._fs.find(store._root) if "part-" in path]
