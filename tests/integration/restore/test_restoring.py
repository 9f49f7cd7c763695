"""A restore is whole or not at all, into an empty place that belongs to nobody else."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from alembic import command
from sqlalchemy import func, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from typer.testing import CliRunner

from service import backup, backup_tables, migrate
from service.artifacts import ArtifactStore, file_digest
from service.cli import app
from service.errors import Conflict, PreconditionFailed, WrongStore
from service.own_artifacts import OwnArtifacts
from service.store import (
    artifact_stores,
    replays,
    schema,
)
from service.store.session import Database, make_engine
from service.store.tables import (
    Version,
)
from tests.integration.restore.services import SECRETS, Case, services
from tests.migrated import copy_sqlite
from tests.servers import fresh_database
from workers import leftovers, tasks
from workers.bench import Bench


def _look_in_the_midst(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, look: Callable[[], None]
) -> list[str]:
    """Have somebody look each time a part of the restore is about to begin; return a mark for each time."""
    looked: list[str] = []
    part = getattr(module, name)

    def looking(*given: Any) -> Any:
        look()
        looked.append(name)
        return part(*given)

    monkeypatch.setattr(module, name, looking)
    return looked


@pytest.mark.parametrize("case", ["postgresql"], indirect=True)
def test_a_worker_that_starts_in_the_midst_of_a_restore_finds_no_database_and_sweeps_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.back_up()

    def start() -> None:
        bench = Bench.open(case.second)
        try:
            assert schema.unfit(bench.database) == "The database has no schema yet: run `unlearn migrate`."
            with pytest.raises((SQLAlchemyError, OSError)):
                leftovers.remove_orphans(bench)
            with pytest.raises(SQLAlchemyError):
                tasks.run_all(bench)
        finally:
            bench.database.dispose()

    for name in ("_load", "_advance_sequence"):
        looked = _look_in_the_midst(monkeypatch, backup_tables, name, start)
    new = case.lose_and_restore()
    assert looked
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        held = [OwnArtifacts(new.settings.resolved_artifacts_url, new.database).size(row.sha256)
                for row in session.scalars(select(Version))]  # fmt: skip
    new.database.dispose()
    assert held
    assert None not in held


@pytest.mark.parametrize("case", ["postgresql"], indirect=True)
def test_a_restore_that_breaks_off_leaves_an_empty_database(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = case.back_up()
    with monkeypatch.context() as patched:
        patched.setattr(backup_tables, "_advance_sequence", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            backup.restore(case.second, folder)
    case.lose_and_restore().database.dispose()


@pytest.mark.parametrize("case", ["postgresql"], indirect=True)
def test_a_backup_of_an_earlier_release_is_restored_and_brought_to_the_newest_schema(
    case: Case, postgres_url: str
) -> None:
    folder = case.back_up()
    with fresh_database(postgres_url) as older:
        command.upgrade(migrate.config(older), "0023")
        _as_of_0023(folder, _columns(older))
    new = case.lose_and_restore()
    assert schema.unfit(new.database) is None
    store = OwnArtifacts(new.settings.resolved_artifacts_url, new.database)
    store.confirm()
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        assert store.size(session.scalars(select(Version.sha256)).one()) is not None
    new.database.dispose()


def _columns(url: str) -> dict[str, set[str]]:
    engine = make_engine(url)
    found = inspect(engine)
    columns = {name: {column["name"] for column in found.get_columns(name)} for name in found.get_table_names()}
    engine.dispose()
    return columns


def _as_of_0023(folder: Path, known: dict[str, set[str]]) -> None:
    """Take from a backup what a release before had not: tables, columns, and the name of the store."""
    tables = folder / backup.TABLES
    columns: dict[str, list[str]] = json.loads((tables / backup_tables.COLUMNS).read_text())
    assert not columns.keys() <= known.keys()
    for name in list(columns):
        path = tables / f"{name}.copy"
        if name not in known:
            columns.pop(name)
            path.unlink()
            continue
        kept = [i for i, column in enumerate(columns[name]) if column in known[name]]
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        path.write_text("".join("\t".join(row[i] for i in kept) + "\n" for row in rows))
        columns[name] = [columns[name][i] for i in kept]
    (tables / backup_tables.COLUMNS).write_text(json.dumps(columns))
    manifest = backup.Manifest.model_validate_json((folder / backup.MANIFEST).read_bytes())
    files = {str(path.relative_to(folder)): file_digest(path) for path in tables.iterdir()}
    older = manifest.model_copy(update={"revision": "0023", "artifact_store": None, "files": files})
    (folder / backup.MANIFEST).write_text(older.model_dump_json())


@pytest.mark.parametrize("case", ["sqlite"], indirect=True)
def test_a_database_that_came_into_being_meanwhile_is_not_overwritten(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = case.back_up()
    _look_in_the_midst(monkeypatch, backup, "_pending", lambda: copy_sqlite(case.second.resolved_database_url))
    with pytest.raises(Conflict, match="meanwhile"):
        backup.restore(case.second, folder)
    database = Database.open(case.second)
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Version)) == 0
    database.dispose()
    assert not list(case.second.data_dir.glob("*.restoring*"))


def test_a_restored_store_bears_the_name_that_the_database_knows(case: Case) -> None:
    with case.first.database.reading() as session:
        before = artifact_stores.own(session)
    case.back_up()
    new = case.lose_and_restore()
    store = OwnArtifacts(new.settings.resolved_artifacts_url, new.database)
    store.confirm()
    if before is not None:
        assert store.identity() == before.store_id
    new.database.dispose()


def test_a_backup_is_not_restored_into_another_databases_store(case: Case) -> None:
    folder = case.back_up()
    other = ArtifactStore(case.second.resolved_artifacts_url)
    other.identify("ast_another")
    with pytest.raises(Conflict, match="another database"):
        backup.restore(case.second, folder)


def test_a_backup_is_not_restored_among_bytes_of_nobody_knows_whom(case: Case) -> None:
    folder = case.back_up()
    (case.root / "file").write_bytes(b"of an earlier release")
    ArtifactStore(case.second.resolved_artifacts_url).put(case.root / "file")
    with pytest.raises(Conflict, match="no name"):
        backup.restore(case.second, folder)


def test_a_store_that_is_not_the_databases_is_not_backed_up(case: Case) -> None:
    OwnArtifacts(case.first.settings.resolved_artifacts_url, case.first.database).confirm()
    elsewhere = case.first.settings.model_copy(update={"artifacts_url": str(case.root / "unmounted")})
    with pytest.raises(WrongStore):
        backup.make(elsewhere, case.root / "backup")


def test_a_backup_is_refused_where_something_is_or_when_it_is_damaged(case: Case) -> None:
    folder = case.back_up()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with pytest.raises(Conflict, match="not empty"):
        backup.make(case.first.settings, folder)
    with pytest.raises(Conflict):
        backup.restore(case.first.settings, folder)
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not [secret for secret in SECRETS.values() if secret.encode() in content or bytes.fromhex(secret) in content]
    damaged = next(path for path in (folder / "artifacts").rglob("*") if path.is_file())
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    with pytest.raises(PreconditionFailed, match=damaged.name):
        backup.restore(case.second, folder)
    damaged.write_bytes(whole)
    (folder / "manifest.json").rename(folder / "elsewhere.json")
    with pytest.raises(PreconditionFailed, match="no whole backup"):
        backup.restore(case.second, folder)


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_what_is_left_of_a_lost_sqlite_file_is_not_played_into_the_restored_one(tmp_path: Path, end: str) -> None:
    for case in services(tmp_path, "", ""):
        folder = case.back_up()
        left = Path(f"{case.second.data_dir / 'unlearn.db'}{end}")
        left.write_bytes(b"left")
        with pytest.raises(Conflict, match=f"unlearn.db{end} is there"):
            backup.restore(case.second, folder)
        assert left.exists()


@pytest.mark.parametrize("command", [["backup", "made"], ["restore", "made"], ["replay"]])
def test_a_command_that_does_not_reach_its_database_or_folder_says_so_in_a_sentence(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATABASE_URL", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    given = [str(tmp_path / word) if word == "made" else word for word in command]
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path))
    done = CliRunner().invoke(app, given)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit)
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.output
