"""Commands find a schema and leave it: `unlearn migrate` alone changes one, and a backup is of before it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from typer.testing import CliRunner, Result

from service import cli, migrate
from service.settings import Settings
from service.store import schema
from service.store.session import make_engine
from tests.servers import fresh_database

READING = [["keys", "list"], ["caches", "list"], ["signing-keys", "list"], ["backup", "{}/backup"]]
WRITING = [
    ["keys", "create", "me", "--scope", "admin"],
    ["keys", "revoke", "key_x"],
    ["caches", "lost", "plc_x", "--reason", "wiped"],
    ["signing-keys", "rotate"],
    ["artifacts", "adopt", "--reason", "mine"],
    ["shred", "--expired"],
    ["replay"],
]


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The settings of a database that nobody has migrated, also those of the commands."""
    for name in [name for name in os.environ if name.startswith("UNLEARN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path))
    if request.param == "sqlite":
        yield Settings()
        return
    with fresh_database(request.getfixturevalue("postgres_url")) as url:
        monkeypatch.setenv("UNLEARN_DATABASE_URL", url)
        yield Settings()


def _run(settings: Settings, arguments: list[str]) -> Result:
    return CliRunner().invoke(cli.app, [each.format(settings.data_dir) for each in arguments])


def _revision(settings: Settings) -> str | None:
    engine = make_engine(settings.resolved_database_url)
    with engine.connect() as connection:
        found = schema.current(connection)
    engine.dispose()
    return found


def test_on_an_older_schema_every_command_says_what_to_do_and_changes_nothing(settings: Settings) -> None:
    command.upgrade(migrate.config(settings.resolved_database_url), "0001")
    for each in READING + WRITING:
        done = _run(settings, each)
        assert done.exit_code == 1, each
        assert "is at 0001" in done.stderr, each
        assert "Run `unlearn migrate`" in done.stderr, each
        assert _revision(settings) == "0001", each
    assert "the release that runs on it" in _run(settings, READING[-1]).stderr
    assert not (settings.data_dir / "backup").exists()


@pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
def test_what_only_reads_makes_no_database(settings: Settings) -> None:
    for each in READING:
        done = _run(settings, each)
        assert (done.exit_code, done.stderr) == (1, "There is no database yet: run `unlearn migrate`.\n"), each
    assert list(settings.data_dir.iterdir()) == []


def test_a_first_key_makes_the_database(settings: Settings) -> None:
    done = _run(settings, WRITING[0])
    assert (done.exit_code, done.stdout[:3]) == (0, "ul_")
    assert _revision(settings) == schema.chain().head


def test_migrations_from_before_the_rule_are_no_rolling_upgrade(settings: Settings) -> None:
    config = migrate.config(settings.resolved_database_url)
    command.upgrade(config, "0018")
    done = _run(settings, ["migrate", "--expand"])
    assert done.exit_code == 1
    assert "stop API and workers" in done.stderr
    assert _revision(settings) == "0018"
    command.upgrade(config, "0019")
    assert _run(settings, ["migrate", "--expand"]).exit_code == 0
    assert _revision(settings) == schema.chain().head
