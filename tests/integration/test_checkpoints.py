"""Signed checkpoints on both databases: they cover what is committed, extend each other, and refuse a changed log."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service import migrate
from service.errors import NotFound, Unavailable
from service.evidence import merkle, notes
from service.settings import Settings
from service.store import audit, audit_tree, checkpoints, signing_keys
from service.store.audit_tree import LogDamaged
from service.store.checkpoints import SignedCheckpoint
from service.store.session import Database
from tests.servers import fresh_database


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    with ExitStack() as stack:
        url = ""
        if request.param == "postgresql":
            url = stack.enter_context(fresh_database(request.getfixturevalue("postgres_url")))
        found = Settings(data_dir=tmp_path, database_url=url, log_origin="example.com/log")
        migrate.upgrade(found.resolved_database_url)
        yield found


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    yield found
    found.dispose()


def append(database: Database, count: int) -> None:
    with database.writing() as session:
        for i in range(count):
            audit.record(session, "test.done", subject=f"test/{i}", payload={"i": i})


def sign(database: Database, settings: Settings) -> SignedCheckpoint:
    with database.writing() as session:
        return checkpoints.sign_now(session, settings)


def forge(database: Database, *statements: str) -> None:
    """Change the log as somebody does who owns the database: without its triggers."""
    with database.writing() as session:
        if database.engine.dialect.name == "sqlite":
            for name in session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all():
                session.execute(text(f"DROP TRIGGER {name}"))
        else:
            session.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            session.execute(text(statement))
        if database.engine.dialect.name != "sqlite":
            session.execute(text("SET session_replication_role = origin"))


def _leaves(database: Database) -> list[bytes]:
    with database.reading() as session:
        return [bytes.fromhex(entry.leaf_hash) for entry in audit.find(session, limit=100_000)]


def _mth(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _mth(leaves[:k]) + _mth(leaves[k:])).digest()


def test_a_checkpoint_covers_every_committed_entry_and_its_root_is_theirs(
    database: Database, settings: Settings
) -> None:
    sizes: list[int] = []
    for count in (1, 254, 2, 300):
        append(database, count)
        made = checkpoints.fresh(database, settings)
        leaves = _leaves(database)
        assert (made.size, made.root) == (len(leaves), _mth(leaves))
        with database.reading() as session:
            read = notes.open_checkpoint(made.note, signing_keys.note_keys(session, "example.com/log"))
            assert (read.size, read.root, read.origin) == (made.size, made.root, "example.com/log")
            assert checkpoints.at(session, made.size) == made
        sizes.append(made.size)
    assert sizes == [2, 256, 258, 558], "one entry names the key"
    with database.reading() as session:
        for old in sizes:
            for new in [each for each in sizes if each >= old]:
                merkle.verify_consistency(
                    old=old,
                    new=new,
                    old_root=checkpoints.at(session, old).root,
                    new_root=checkpoints.at(session, new).root,
                    path=checkpoints.consistency(session, old, new),
                )
            for seq in (0, old // 2, old - 1):
                path = checkpoints.inclusion(session, seq, old)
                root = checkpoints.at(session, old).root
                merkle.verify_inclusion(leaves[seq], seq=seq, size=old, path=path, root=root)


def test_without_new_entries_the_last_checkpoint_stands(database: Database, settings: Settings) -> None:
    append(database, 3)
    made = checkpoints.fresh(database, settings)
    assert checkpoints.fresh(database, settings) == made
    assert sign(database, settings) == made


def test_batches_of_any_size_make_the_same_tree(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_tree, "BATCH", 7)
    append(database, 600)
    assert checkpoints.fresh(database, settings).root == _mth(_leaves(database))


def test_what_is_beyond_the_checkpoint_has_no_proof(database: Database, settings: Settings) -> None:
    append(database, 3)
    size = checkpoints.fresh(database, settings).size
    append(database, 3)
    with database.reading() as session:
        for seq, covering in ((size, size), (size + 99, size), (0, size + 1), (-1, size)):
            with pytest.raises(NotFound, match="checkpoint") as refusal:
                checkpoints.inclusion(session, seq, covering)
            assert refusal.value.code == "beyond_checkpoint"
        for old, new in ((1, size + 1), (0, size), (3, 2)):
            with pytest.raises(NotFound):
                checkpoints.consistency(session, old, new)
        with pytest.raises(NotFound, match="signed at size 1"):
            checkpoints.at(session, 1)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (
            "UPDATE audit_tiles SET hashes = (SELECT substr(t.hashes, 1, 32) FROM audit_tiles t"
            ' WHERE t.level = 0 AND t."index" = 0) WHERE level = 1',
            "not an extension",
        ),
        ("DELETE FROM audit_tiles WHERE level = 1", "missing"),
        ("UPDATE audit_tree SET size = size - 1", "does not hold together"),
        ("UPDATE audit_head SET size = 3", "entries are gone"),
        ("DELETE FROM audit_entries WHERE seq >= 301", "only"),
        ("UPDATE audit_checkpoints SET root = (SELECT root FROM audit_checkpoints WHERE size = 2)", "beside it"),
        (
            "UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE size = 2)",
            "beside it",
        ),
        ("UPDATE audit_checkpoints SET note = replace(note, '\n301\n', '\n300\n')", "not one this service signed"),
    ],
)
def test_a_log_that_is_not_what_was_signed_is_refused(
    database: Database, settings: Settings, change: str, wrong: str
) -> None:
    append(database, 1)
    checkpoints.fresh(database, settings)
    append(database, 299)
    checkpoints.fresh(database, settings)
    append(database, 1)
    forge(database, change)
    with pytest.raises(LogDamaged, match=wrong):
        checkpoints.fresh(database, settings)


def test_a_log_does_not_change_its_name(database: Database, settings: Settings) -> None:
    append(database, 1)
    checkpoints.fresh(database, settings)
    append(database, 1)
    with pytest.raises(Unavailable, match=r"signed as 'example\.com/log'"):
        checkpoints.fresh(database, settings.model_copy(update={"log_origin": "other"}))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_checkpoints SET size = 9",
        "DELETE FROM audit_checkpoints",
        "DELETE FROM signing_keys",
        "UPDATE audit_entries SET actor = 'nobody'",
        "DELETE FROM audit_entries",
    ],
)
def test_the_database_refuses_to_change_what_was_written(database: Database, settings: Settings, change: str) -> None:
    append(database, 1)
    checkpoints.fresh(database, settings)
    with pytest.raises(DBAPIError, match="append-only"), database.writing() as session:
        session.execute(text(change))


def test_postgresql_refuses_to_truncate(database: Database, settings: Settings) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no TRUNCATE")
    for table in ("audit_checkpoints", "signing_keys, audit_checkpoints", "audit_entries, audit_links"):
        with pytest.raises(DBAPIError, match="append-only"), database.writing() as session:
            session.execute(text(f"TRUNCATE {table}"))


def test_times_never_run_backwards_though_a_clock_does(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for minutes in (0, 5, -60, 3, 10):
        monkeypatch.setattr(audit, "now", lambda minutes=minutes: noon + timedelta(minutes=minutes))
        append(database, 2)
    with database.reading() as session:
        entries = audit.find(session)
        assert [entry.time[14:16] for entry in entries] == ["00", "00", "05", "05", "05", "05", "05", "05", "10", "10"]
        for since, until, numbers in [
            (0, 5, [0, 1]),
            (5, 6, range(2, 8)),
            (1, None, range(2, 10)),
            (None, 10, range(8)),
            (-9, 99, range(10)),
            (11, None, []),
            (None, 0, []),
            (6, 5, []),
        ]:
            bounds = [None if m is None else audit.moment(noon + timedelta(minutes=m)) for m in (since, until)]
            found = audit.find(session, since=bounds[0], until=bounds[1])
            assert [entry.seq for entry in found] == list(numbers), (since, until)
        assert audit.find(session, since=audit.moment(noon), after=6, limit=2)[0].seq == 7


def test_the_newest_migration_can_be_undone(database: Database, settings: Settings) -> None:
    from alembic import command

    config: Any = migrate.config(settings.resolved_database_url)
    command.downgrade(config, "0018")
    command.upgrade(config, "0019")
    migrate.upgrade(settings.resolved_database_url)
    append(database, 2)
    assert checkpoints.fresh(database, settings).size == 3
