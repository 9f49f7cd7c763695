"""In a store that is not the database's own nothing is stored, swept, purged or proven absent."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from starlette.testclient import TestClient
from typer.testing import CliRunner

from service.app import create_app
from service.artifacts import IDENTITY, ArtifactStore
from service.cli import app
from service.doctor import places
from service.errors import Conflict, WrongStore
from service.lifecycle import VersionState
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store import keys, versions
from service.store.session import Database
from service.store.tables import AuditEntry, OwnArtifactStore, Version
from tests import factories
from tests.migrated import copy_sqlite
from tests.object_store import fresh_bucket, s3_server
from workers import leftovers, own_store, retirement, sweeper, tasks
from workers.bench import Bench


@pytest.fixture
def bench(own_settings: Settings) -> Iterator[Bench]:
    yield from _bench(own_settings)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Bench]:
    settings = Settings(data_dir=tmp_path)
    copy_sqlite(settings.resolved_database_url)
    yield from _bench(settings)


def _bench(settings: Settings) -> Iterator[Bench]:
    found = Bench.open(settings.model_copy(update={"lease_seconds": 1}))
    yield found
    found.database.dispose()


def _elsewhere(bench: Bench, url: str) -> Bench:
    """Return a second worker of the same database whose artifacts are set to another place."""
    return replace(bench, artifacts=OwnArtifacts(url, bench.database))


def _retired(bench: Bench) -> Version:
    factories.dataset(bench)
    factories.model(bench)
    version = factories.version(bench)
    with bench.database.writing() as session:
        versions.move(session, session.get_one(Version, version.id), VersionState.RETIRED)
    return version


def _state(bench: Bench, version: Version) -> str:
    with bench.database.reading() as session:
        return str(session.get_one(Version, version.id).state)


def _unnamed(bench: Bench) -> None:
    """Make the database and its store those of a release that named no store."""
    with bench.database.writing() as session:
        session.execute(delete(OwnArtifactStore))
    (bench.settings.data_dir / "artifacts" / IDENTITY).unlink()


def test_an_unshared_folder_proves_no_absence(bench: Bench, tmp_path: Path) -> None:
    version = _retired(bench)
    other = _elsewhere(bench, str(tmp_path / "unshared"))
    retirement.purge(other)
    assert _state(bench, version) == VersionState.RETIRED
    with pytest.raises(WrongStore):
        other.artifacts.purge(version.sha256)
    retirement.purge(bench)
    assert _state(bench, version) == VersionState.PURGED


def test_a_folder_that_is_not_mounted_any_more_proves_no_absence(sqlite: Bench) -> None:
    version, folder = _retired(sqlite), sqlite.settings.data_dir / "artifacts"
    folder.rename(folder.with_name("unmounted"))
    folder.mkdir()
    retirement.purge(sqlite)
    assert _state(sqlite, version) == VersionState.RETIRED
    folder.rmdir()
    folder.with_name("unmounted").rename(folder)
    retirement.purge(sqlite)
    assert _state(sqlite, version) == VersionState.PURGED


def test_at_another_databases_store_nothing_is_swept_stored_or_claimed(bench: Bench, tmp_path: Path) -> None:
    theirs = Settings(data_dir=tmp_path / "theirs")
    copy_sqlite(theirs.resolved_database_url)
    owner = Bench.open(theirs)
    file = tmp_path / "file"
    file.write_bytes(b"theirs")
    digest = owner.artifacts.put(file)
    owner.database.dispose()
    path = ArtifactStore(theirs.resolved_artifacts_url).local_path(digest)
    assert path is not None
    os.utime(path, (time.time() - 1000,) * 2)

    guest = _elsewhere(bench, theirs.resolved_artifacts_url)
    with pytest.raises(WrongStore):
        leftovers.remove_orphans(guest)
    sweeper.tidy(guest)
    assert not sweeper.sign(guest)
    with pytest.raises(WrongStore, match="UNLEARN_ARTIFACTS_URL"):
        guest.artifacts.put(file)
    assert path.exists()
    factories.dataset(bench)
    factories.model(bench)
    assert tasks.run_all(guest) == 0


def test_a_new_database_does_not_take_a_store_with_anothers_bytes(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "artifacts"))
    (tmp_path / "file").write_bytes(b"of an earlier release")
    store.put(tmp_path / "file")
    settings = Settings(data_dir=tmp_path)
    copy_sqlite(settings.resolved_database_url)
    found = Bench.open(settings)
    assert not own_store.is_ours(found)
    assert store.identity() is None
    found.database.dispose()


def test_a_store_of_an_earlier_release_is_taken_when_the_weights_in_circulation_are_there(bench: Bench) -> None:
    factories.dataset(bench)
    factories.model(bench)
    factories.version(bench)
    _unnamed(bench)
    Bench.open(bench.settings).database.dispose()
    with bench.database.reading() as session:
        row = session.scalars(select(OwnArtifactStore)).one()
    assert row.adopted_at is not None
    assert bench.artifacts.identity() == row.store_id


@pytest.mark.parametrize("state", [VersionState.ACTIVE, VersionState.RETIRED])
def test_a_store_that_lacks_what_the_database_names_is_not_taken_unasked(sqlite: Bench, state: VersionState) -> None:
    factories.dataset(sqlite)
    factories.model(sqlite)
    factories.version(sqlite, state=state)
    _unnamed(sqlite)
    shutil.rmtree(sqlite.settings.data_dir / "artifacts" / "sha256")
    found = Bench.open(sqlite.settings)
    with pytest.raises(WrongStore, match="unlearn artifacts adopt"):
        found.artifacts.confirm()
    assert found.artifacts.identity() is None
    found.database.dispose()


def test_processes_that_start_together_agree_on_one_name(bench: Bench) -> None:
    _unnamed(bench)
    url = bench.settings.resolved_artifacts_url
    found = [OwnArtifacts(url, Database.open(bench.settings)) for _ in range(4)]
    with ThreadPoolExecutor(len(found)) as pool:
        list(pool.map(OwnArtifacts.confirm, found))
    for store in found:
        store.confirm()
        store._database.dispose()


def test_who_died_between_the_stores_name_and_the_databases_is_forgiven(bench: Bench) -> None:
    with bench.database.writing() as session:
        session.execute(update(OwnArtifactStore).values(adopted_at=None))
    again = _elsewhere(bench, bench.settings.resolved_artifacts_url)
    again.artifacts.confirm()
    with bench.database.reading() as session:
        assert session.scalars(select(OwnArtifactStore.adopted_at)).one() is not None


def test_a_moved_store_brings_its_name_along(sqlite: Bench, tmp_path: Path) -> None:
    version = _retired(sqlite)
    shutil.copytree(tmp_path / "artifacts", tmp_path / "moved")
    moved = _elsewhere(sqlite, str(tmp_path / "moved"))
    retirement.purge(moved)
    assert _state(sqlite, version) == VersionState.PURGED


def test_a_person_can_have_another_store_taken_and_the_log_says_so(sqlite: Bench, tmp_path: Path) -> None:
    factories.dataset(sqlite)
    factories.model(sqlite)
    factories.version(sqlite)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "artifacts" / "sha256", moved / "sha256")
    (moved / IDENTITY).write_text('{"id": "ast_given_by_another"}')
    with sqlite.database.reading() as session:
        own = session.scalars(select(OwnArtifactStore.store_id)).one()
    env = {"UNLEARN_DATA_DIR": str(tmp_path), "UNLEARN_ARTIFACTS_URL": str(moved)}
    command = ["artifacts", "adopt", "--reason", "new disk"]
    done = CliRunner().invoke(app, command, env=env)
    assert done.exit_code == 0, done.output
    _elsewhere(sqlite, str(moved)).artifacts.confirm()
    with pytest.raises(Conflict):
        _elsewhere(sqlite, str(tmp_path / "empty")).artifacts.adopt(reason="a slip")
    with sqlite.database.reading() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "artifact_store.adopted")).one()
    told = json.loads(entry.payload)
    assert (told["store_id"], told["before"], told["reason"]) == ("ast_given_by_another", own, "new disk")


def test_a_folder_without_hard_links_is_named_once_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = ArtifactStore(str(tmp_path / "mounted"))
    store.identify("ast_first")
    store.identify("ast_second")
    assert store.identity() == "ast_first"
    assert [path.name for path in (tmp_path / "mounted").iterdir()] == [IDENTITY]


def test_a_running_process_hears_that_another_store_was_taken(sqlite: Bench, tmp_path: Path) -> None:
    with sqlite.database.writing() as session:
        session.execute(update(OwnArtifactStore).values(store_id="ast_another"))
    (tmp_path / "artifacts" / IDENTITY).write_text('{"id": "ast_another"}')
    sqlite.artifacts.confirm()


def test_the_doctor_tells_a_store_of_another_database(sqlite: Bench, tmp_path: Path) -> None:
    def found() -> dict[str, str]:
        return {each.part: each.level for each in places.artifacts(sqlite.settings)}

    assert found() == {"artifacts": "ok", "artifact store": "ok"}
    (tmp_path / "artifacts" / IDENTITY).write_text('{"id": "ast_another"}')
    assert found()["artifact store"] == "fault"
    (tmp_path / "artifacts" / IDENTITY).write_text("not JSON")
    assert found()["artifact store"] == "fault"
    (tmp_path / "artifacts" / IDENTITY).unlink()
    assert found()["artifact store"] == "fault"


def test_an_api_at_another_store_is_not_ready_refuses_uploads_and_says_what_to_do(
    sqlite: Bench, tmp_path: Path
) -> None:
    factories.dataset(sqlite)
    factories.model(sqlite)
    with sqlite.database.writing() as session:
        _, key = keys.create(session, name="admin", scopes=["admin"])
    name, upload = tmp_path / "artifacts" / IDENTITY, {"Content-Type": "application/vnd.safetensors"}
    body = factories.safetensors(w=[1.0])
    with TestClient(create_app(sqlite.settings), headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.get("/readyz").json()["checks"]["own_artifacts"] is True
        name.rename(tmp_path / "kept")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["own_artifacts"]) == (503, False)
        assert "UNLEARN_ARTIFACTS_URL" in ready.json()["detail"]
        refused = client.post("/v1/models/m/versions", content=body, headers=upload)
        assert (refused.status_code, refused.json()["code"]) == (503, "artifact_store_wrong")
        assert "unlearn artifacts adopt" in refused.json()["detail"]
        assert not sqlite.artifacts.holds_bytes()
        (tmp_path / "kept").rename(name)
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/models/m/versions", content=body, headers=upload).status_code == 201


def test_a_bucket_has_a_name_too_and_is_asked_for_it_once_and_at_each_purge(
    sqlite: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as server, fresh_bucket(server) as s3:
        with sqlite.database.writing() as session:
            session.execute(delete(OwnArtifactStore))
        found = OwnArtifacts(s3.url, sqlite.database)
        found.confirm()
        assert s3.stored() == [f"artifacts/{IDENTITY}"]
        asked: list[str | None] = []

        def identity(store: ArtifactStore) -> str | None:
            asked.append(_identity(store))
            return asked[-1]

        monkeypatch.setattr(ArtifactStore, "identity", identity)
        (tmp_path / "file").write_bytes(b"bytes")
        digests = [found.put(tmp_path / "file") for _ in range(3)]
        assert asked == []
        assert found.purge(digests[0])
        assert len(asked) == 1
        s3.client.delete_object(Bucket=s3.bucket, Key=f"artifacts/{IDENTITY}")
        with pytest.raises(WrongStore):
            found.purge(digests[0])
        with pytest.raises(WrongStore):
            found.confirm()


_identity = ArtifactStore.identity
