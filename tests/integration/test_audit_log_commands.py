"""`unlearn signing-keys` and `unlearn audit-log`, as an operator and an auditor use them."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner, Result

from service import cli, migrate
from service.evidence.notes import NoteKey
from service.settings import Settings
from service.store import audit, checkpoints, signing_keys
from service.store.session import Database
from tests.servers import fresh_database


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("UNLEARN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path))
    found = Settings()
    migrate.upgrade(found.resolved_database_url)
    return found


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    yield found
    found.dispose()


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def test_keys_are_rotated_listed_and_revoked(database: Database, settings: Settings) -> None:
    first = _run("signing-keys", "rotate").stdout.strip()
    second = _run("signing-keys", "rotate").stdout.strip()
    assert len({first, second}) == 2
    assert _run("signing-keys", "revoke", first, "--reason", "lost").exit_code == 0
    lines = [line.split() for line in _run("signing-keys", "list").stdout.splitlines()]
    assert [(line[0], line[4]) for line in lines] == [(first, "revoked"), (second, "current")]
    with database.writing() as session:
        assert signing_keys.current(session, settings).key_id == second


def test_an_unknown_key_is_refused_in_words(settings: Settings) -> None:
    refused = _run("signing-keys", "revoke", "00", "--reason", "lost")
    assert refused.exit_code == 1
    assert refused.stderr == "There is no such signing key.\n"


def test_an_export_is_checked_offline(database: Database, settings: Settings, tmp_path: Path) -> None:
    with database.writing() as session:
        for i in range(5):
            audit.record(session, "test.done", subject=f"test/{i}", payload={"i": i})
    made = checkpoints.fresh(database, settings)
    with database.reading() as session:
        entries = audit.find(session)
        key = signing_keys.note_keys(session, settings.log_origin)[0].verifier_key
    lines = [json.dumps({**json.loads(audit.hashed_bytes(each)), "leaf_hash": each.leaf_hash}) for each in entries]
    export, note = tmp_path / "log.ndjson", tmp_path / "checkpoint"
    export.write_text("\n".join(lines) + "\n")
    note.write_bytes(made.note.encode())
    arguments = ["audit-log", "verify", export, "--checkpoint", note, "--trusted-key"]
    verified = _run(*arguments, key)
    assert (verified.exit_code, verified.stdout) == (0, f"verified: 6 entries of {settings.log_origin}\n")
    stranger = NoteKey(name=settings.log_origin, public_key=bytes(32)).verifier_key
    assert "not signed by a trusted key" in _run(*arguments, stranger).stderr
    assert _run(*arguments, "nonsense").exit_code == 2
    export.write_text("\n".join(lines[:-1]) + "\n")
    refused = _run(*arguments, key)
    assert (refused.exit_code, refused.stderr) == (
        1,
        "refused: the export ends after 5 entries and 6 were signed: its tail is missing\n",
    )


def test_a_role_can_run_the_service_and_cannot_change_the_log(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fresh_database(postgres_url) as url:
        monkeypatch.setenv("UNLEARN_DATABASE_URL", url)
        owner = Database.open(Settings(data_dir=tmp_path, database_url=url))
        role = f"service_{make_url(url).database}"
        with owner.writing() as session:
            session.execute(text(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'p'"))
        granted = _run("audit-log", "grant", role)
        assert granted.exit_code == 0, granted.output
        theirs = make_url(url).set(username=role, password="p").render_as_string(hide_password=False)
        settings = Settings(data_dir=tmp_path, database_url=theirs)
        database = Database.open(settings)
        try:
            with database.writing() as session:
                audit.record(session, "test.done", subject="test", payload={}, links={"test": "x"})
            assert checkpoints.fresh(database, settings).size == 2
            for change in (
                "UPDATE audit_entries SET actor = 'x'",
                "DELETE FROM audit_entries",
                "TRUNCATE audit_entries, audit_links",
                "DELETE FROM audit_links",
                "UPDATE audit_checkpoints SET size = 1",
                "TRUNCATE audit_checkpoints",
                "ALTER TABLE audit_entries DISABLE TRIGGER ALL",
                "SET session_replication_role = replica",
            ):
                with pytest.raises(DBAPIError, match=r"permission denied|must be owner"), database.writing() as session:
                    session.execute(text(change))
        finally:
            database.dispose()
            with owner.writing() as session:
                session.execute(text(f'DROP OWNED BY "{role}"'))
                session.execute(text(f'DROP ROLE "{role}"'))
            owner.dispose()


def test_sqlite_has_no_roles(settings: Settings) -> None:
    assert _run("audit-log", "grant", "somebody").exit_code == 2
