"""Migrating: two at once, behind a lock, on a newer database; and code that meets a schema which is not its own."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from alembic import command
from fastapi import Response
from sqlalchemy import text

from service import migrate
from service.deps import Parts
from service.routes import health
from service.settings import Settings
from service.store import schema
from service.store.schema import SchemaUnfit
from service.store.session import Database
from service.supervisor import WORKER
from tests.later import FIRST, HEAD, SECOND, Later
from tests.servers import fresh_database

END_SECONDS = 120.0


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """The settings of a database that nobody has migrated."""
    if request.param == "sqlite":
        yield Settings(data_dir=tmp_path)
        return
    with fresh_database(request.getfixturevalue("postgres_url")) as url:
        yield Settings(data_dir=tmp_path, database_url=url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    yield found
    found.dispose()


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Later:
    folder = tmp_path / "later"
    folder.mkdir()
    return Later(folder, monkeypatch)


def _start(settings: Settings, *command: str) -> "subprocess.Popen[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {"UNLEARN_DATA_DIR": str(settings.data_dir), "UNLEARN_DATABASE_URL": settings.database_url}
    return subprocess.Popen([sys.executable, *command], env=env, text=True, stderr=subprocess.PIPE)


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=END_SECONDS)
    return process.returncode, said


MIGRATE = ("-m", "service.cli", "migrate")
API = ("-m", "service.cli", "api", "--port", "0")


def _stamp(database: Database, revision: str) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_two_that_migrate_at_once_take_turns(settings: Settings, database: Database) -> None:
    both = [_start(settings, *MIGRATE) for _ in range(2)]
    assert [_ended(each) for each in both] == [(0, f"The schema is at {HEAD}.\n")] * 2
    assert schema.unfit(database) is None
    with database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM audit_head")) == 1


def test_each_migration_can_be_undone_and_done_again(settings: Settings, database: Database) -> None:
    migrate.upgrade(settings.resolved_database_url)
    config = migrate.config(settings.resolved_database_url)
    revisions = schema.chain().revisions
    for before, revision in reversed(list(pairwise(revisions))):
        command.downgrade(config, before)
        command.upgrade(config, revision)
        command.downgrade(config, before)
    with pytest.raises(SchemaUnfit, match=r"older than this version.*Run `unlearn migrate`"):
        schema.refuse_unfit(database)
    migrate.upgrade(settings.resolved_database_url)
    command.check(config)
    assert schema.unfit(database) is None


def test_nothing_starts_on_a_database_without_a_schema_or_with_a_newer_one(
    settings: Settings, database: Database
) -> None:
    refused = [_start(settings, *API)]
    assert [_ended(each) for each in refused] == [(1, "The database has no schema yet: run `unlearn migrate`.\n")]
    migrate.upgrade(settings.resolved_database_url)
    _stamp(database, "0999")
    refused = [_start(settings, *MIGRATE), _start(settings, *API), _start(settings, *WORKER)]
    for code, said in map(_ended, refused):
        assert code == 1
        assert (
            said.count(
                f"written by a newer version of the service: its schema is at 0999, and this version ends at {HEAD}"
            )
            == 1
        )
    with database.engine.connect() as connection:
        assert schema.current(connection) == "0999"


def test_readiness_says_that_the_schema_does_not_fit_and_what_to_do(settings: Settings, database: Database) -> None:
    parts = Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=Mock())
    parts.artifacts.writable.return_value = True  # type: ignore[attr-defined]
    parts.artifacts.why_wrong.return_value = None  # type: ignore[attr-defined]

    def readiness() -> tuple[int, str]:
        response = Response()
        found = health.readyz(response, parts)
        return response.status_code, found.get("detail", "")

    assert readiness() == (503, "The database has no schema yet: run `unlearn migrate`.")
    migrate.upgrade(settings.resolved_database_url)
    assert readiness() == (200, "")
    _stamp(database, "0018")
    assert readiness()[0] == 503
    assert "it is at 0018" in readiness()[1]
    _stamp(database, "0999")
    assert "written by a newer version" in readiness()[1]


def test_the_old_version_works_until_what_it_uses_is_taken_away(
    settings: Settings, database: Database, later: Later
) -> None:
    url = settings.resolved_database_url
    migrate.upgrade(url)
    later.write(FIRST, 'op.add_column("jobs", sa.Column("stage", sa.Text()))')
    later.write(SECOND, 'op.drop_column("jobs", "phase")', after=FIRST, says=f'contract, oldest_code = True, "{FIRST}"')
    chain = later.as_later_code()
    assert (chain.head, chain.needs) == (SECOND, FIRST)
    assert "older than this version" in str(schema.unfit(database))

    assert migrate.upgrade(url, expand_only=True) == FIRST
    assert schema.unfit(database) is None, "the new version works before the contract step"
    assert migrate.upgrade(url, expand_only=True) == FIRST
    later.as_todays_code()
    assert schema.unfit(database) is None, "and so does the old one"
    assert migrate.upgrade(url) == FIRST, "commands that migrate first leave it alone"
    with pytest.raises(SchemaUnfit, match="written by a newer version"):
        migrate.upgrade(url, strict=True)

    later.as_later_code()
    assert migrate.upgrade(url) == SECOND
    assert schema.unfit(database) is None
    later.as_todays_code()
    assert "written by a newer version" in str(schema.unfit(database))
    with pytest.raises(SchemaUnfit):
        migrate.upgrade(url)


def test_a_migration_that_fails_leaves_nothing_behind(settings: Settings, database: Database, later: Later) -> None:
    url = settings.resolved_database_url
    migrate.upgrade(url)
    later.write(FIRST, 'op.add_column("jobs", sa.Column("stage", sa.Text()))\nraise RuntimeError("stop")')
    later.as_later_code()
    with pytest.raises(RuntimeError, match="stop"):
        migrate.upgrade(url)
    later.as_todays_code()
    assert schema.unfit(database) is None
    command.check(migrate.config(url))


def test_a_migration_that_waits_for_a_table_lets_others_pass(
    tmp_path: Path, postgres_url: str, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.2)
    with fresh_database(postgres_url) as url:
        migrate.upgrade(url)
        database = Database.open(Settings(data_dir=tmp_path, database_url=url))
        later.write(FIRST, 'op.add_column("jobs", sa.Column("stage", sa.Text()))')
        later.as_later_code()
        monkeypatch.setattr(migrate, "config", _impatient(later))
        migrating = threading.Thread(target=migrate.upgrade, args=(url,))
        with database.engine.begin() as holder:
            holder.execute(text("SELECT count(*) FROM jobs"))  # holds the table until it ends, as a long report would
            migrating.start()
            _until_waiting(database)
            with database.engine.begin() as other:
                other.execute(text("SET LOCAL statement_timeout = '60s'"))
                assert other.scalar(text("SELECT count(*) FROM jobs")) == 0
        migrating.join(END_SECONDS)
        with database.engine.connect() as connection:
            assert schema.current(connection) == FIRST
        database.dispose()


def _impatient(later: Later) -> Callable[[str], Any]:
    def config(url: str) -> Any:
        found = later.config(url)
        found.attributes["lock_timeout"] = "200ms"
        return found

    return config


def _until_waiting(database: Database) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass")
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        with database.engine.connect() as connection:
            if connection.scalar(waiting):
                return
    raise TimeoutError


def test_a_migration_that_never_gets_its_lock_says_so(
    tmp_path: Path, postgres_url: str, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(migrate, "TRIES", 2)
    with fresh_database(postgres_url) as url:
        migrate.upgrade(url)
        database = Database.open(Settings(data_dir=tmp_path, database_url=url))
        later.write(FIRST, 'op.add_column("jobs", sa.Column("stage", sa.Text()))')
        later.as_later_code()
        monkeypatch.setattr(migrate, "config", _impatient(later))
        with database.engine.begin() as holder:
            holder.execute(text("SELECT count(*) FROM jobs"))
            with pytest.raises(migrate.MigrationBlocked, match="pg_stat_activity"):
                migrate.upgrade(url)
        with database.engine.connect() as connection:
            assert schema.current(connection) == HEAD
        database.dispose()
