"""A request's key: wrapped at rest, shredded at its date, and then nowhere in the database's files."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from alembic import command
from sqlalchemy import func, select, text, update
from typer.testing import CliRunner

from service import migrate, shredding
from service.cli import app
from service.deps import Parts
from service.errors import Conflict, Gone, NotFound, ServiceError
from service.evidence import commitments
from service.evidence.key_wrapping import wrapping_key
from service.lifecycle import RequestStatus
from service.settings import Settings
from service.store import audit, idempotency, intake, request_keys, requests, traces
from service.store.intake import Secrets
from service.store.session import SQLITE_BUSY_SECONDS, Database, make_engine
from service.store.tables import DeletionRequest, FileTrace, RequestKey, Suppression
from service.store.types import now
from tests import factories


@pytest.fixture(params=["sqlite", "postgresql"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Parts]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    yield from _parts(tmp_path, url)


@pytest.fixture
def in_files(tmp_path: Path) -> Iterator[Parts]:
    """On SQLite, whose files a test can look into."""
    yield from _parts(tmp_path, "")


@pytest.fixture
def traced(in_files: Parts) -> Database:
    """A database of SQLite in whose journal something waits to be scrubbed."""
    _leave_a_trace(in_files.database)
    return in_files.database


def _parts(folder: Path, url: str) -> Iterator[Parts]:
    settings = Settings(data_dir=folder, database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    master = settings.master_key_bytes
    secrets = Secrets(suppression=commitments.suppression_key(master), wrapping=wrapping_key(master), time_zone="UTC")
    yield Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=secrets)
    database.dispose()


def _request(parts: Parts, name: str, *ids: str, models: list[str] | None = None) -> str:
    factories.dataset(parts, name)
    if models:
        factories.model(parts, models[0], of=name)
        factories.version(parts, models[0])
    order = factories.order(name, *ids)
    with parts.database.writing() as session:
        return intake.accept(session, order, parts.secrets).request.id


def _leave_a_trace(database: Database) -> None:
    with database.writing() as session:
        traces.note(session, "samples")


def _stored(parts: Parts, request_id: str) -> RequestKey | None:
    with parts.database.reading() as session:
        return session.get(RequestKey, request_id)


def _name(parts: Parts, word: str) -> str:
    return f"{word}-{parts.settings.data_dir.name}"[:60]


def test_a_new_requests_key_is_stored_wrapped_and_gives_its_root(parts: Parts) -> None:
    name = _name(parts, "wrapped")
    request_id = _request(parts, name, "audit-0", "audit-1")
    stored = _stored(parts, request_id)
    assert stored is not None
    assert stored.wrapping == "aes-256-gcm"
    with parts.database.reading() as session:
        key = request_keys.of(session, request_id, parts.secrets.wrapping)
        leaves = request_keys.leaves_of(session, request_id)
        root = session.get_one(DeletionRequest, request_id).commitment_root
    assert key is not None
    assert key not in stored.key
    assert leaves == sorted(commitments.commitment(key, f"{name}-{sample}") for sample in ("audit-0", "audit-1"))
    assert commitments.merkle_root(leaves).hex() == root


def test_another_master_key_opens_nothing_and_says_so(parts: Parts) -> None:
    request_id = _request(parts, _name(parts, "other"), "audit-0")
    with parts.database.reading() as session, pytest.raises(ServiceError, match="another master key"):
        request_keys.of(session, request_id, b"o" * 32)


def test_keys_stored_before_wrapping_are_read_and_then_wrapped_with_their_commitments(parts: Parts) -> None:
    """The rows are made as the migration finds them: one whose ids are there, one whose ids are erased."""
    still = _request(parts, _name(parts, "still"), "train-0", models=[_name(parts, "m-still")])
    erased = _request(parts, _name(parts, "gone"), "audit-0")
    keys = {}
    for request_id in (still, erased):
        with parts.database.writing() as session:
            keys[request_id] = request_keys.of(session, request_id, parts.secrets.wrapping)
            leaves = request_keys.leaves_of(session, request_id)
            old = {"key": keys[request_id], "wrapping": None, "commitments": None}
            session.execute(update(RequestKey).where(RequestKey.request_id == request_id).values(**old))
            assert request_keys.of(session, request_id, parts.secrets.wrapping) == keys[request_id]
        if request_id == still:
            expected = leaves
    shredding.wrap_keys(parts)
    with parts.database.reading() as session:
        for request_id, key in keys.items():
            assert request_keys.of(session, request_id, parts.secrets.wrapping) == key
        assert session.scalar(select(func.count()).where(RequestKey.wrapping.is_(None))) == 0
        assert request_keys.leaves_of(session, still) == expected
        with pytest.raises(Gone) as refusal:
            request_keys.leaves_of(session, erased)
    assert refusal.value.code == "commitments_not_kept"
    found = _stored(parts, still)
    shredding.wrap_keys(parts)
    assert found is not None
    assert _stored(parts, still).key == found.key, "not wrapped twice"  # type: ignore[union-attr]


def test_the_migration_marks_what_is_wrapped_and_leaves_what_is_not(tmp_path: Path) -> None:
    """One key as the schema before had it, and one that was wrapped, went back to that schema, and comes again."""
    settings = Settings(data_dir=tmp_path)
    url = settings.resolved_database_url
    command.upgrade(migrate.config(url), "0008")
    database = Database.open(settings)
    stored = {"req_clear": b"c" * 32, "req_wrapped": request_keys.row("req_wrapped", b"w" * 32, b"m" * 32, [])["key"]}
    with database.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO datasets (id, name, source, state, num_samples, num_classes, created_at)"
                " VALUES ('ds_1', 'd', '{}', 'ready', 0, 0, '2024-01-01')"
            )
        )
        for request_id, key in stored.items():
            row = {"id": request_id, "key": key}
            connection.execute(text(_REQUEST), row)
            connection.execute(text("INSERT INTO request_keys (request_id, key) VALUES (:id, :key)"), row)
    command.downgrade(migrate.config(url), "0007")
    migrate.upgrade(url)
    with database.reading() as session:
        assert request_keys.of(session, "req_clear", b"m" * 32) == b"c" * 32
        assert request_keys.of(session, "req_wrapped", b"m" * 32) == b"w" * 32
        assert request_keys.any_unwrapped(session)
    database.dispose()


_REQUEST = (
    "INSERT INTO deletion_requests (id, dataset_id, principal_id, purpose, method, method_options, scope, status,"
    " num_samples, not_found, already_erased, commitment_root, received_at, created_at) VALUES"
    " (:id, 'ds_1', 'key', 'privacy', 'finetune', '{}', 'full', 'completed', 0, 0, 0, '0', '2024-01-01', '2024-01-01')"
)


def test_a_key_is_shredded_when_its_retention_is_over_and_not_before(parts: Parts) -> None:
    done = _request(parts, _name(parts, "done"), "audit-0")
    still = _request(parts, _name(parts, "open"), "train-0", models=[_name(parts, "m-open")])
    shredding.shred_expired(parts)
    stored = _stored(parts, done)
    assert stored is not None
    assert stored.keep_until is not None
    left = stored.keep_until - now()
    assert timedelta(days=1095) < left <= timedelta(days=1096)
    untouched = _stored(parts, still)
    assert untouched is not None
    assert untouched.keep_until is None, "a request that is open has no date"
    with parts.database.writing() as session:
        session.execute(
            update(RequestKey).where(RequestKey.request_id == done).values(keep_until=now() - timedelta(seconds=1))
        )
    shredding.shred_expired(parts)
    assert _stored(parts, done) is None
    assert _stored(parts, still) is not None
    with parts.database.reading() as session:
        root = session.get_one(DeletionRequest, done).commitment_root
        entries = audit.find(session, actions=["request_key.shredded"], links={"request": done})
        assert request_keys.of(session, done, parts.secrets.wrapping) is None
        with pytest.raises(Gone) as refusal:
            request_keys.leaves_of(session, done)
    assert len(entries) == 1
    assert root in entries[0].payload, "the root stays in the log"
    assert refusal.value.code == "request_key_shredded"


def test_with_the_key_goes_what_else_ids_could_be_tried_on(parts: Parts) -> None:
    """The fingerprint of a body with one id is a test for that id, and so is the moment of its suppression."""
    request_id = _request(parts, _name(parts, "beside"), "audit-0")
    other = _request(parts, _name(parts, "apart"), "audit-0")
    with parts.database.writing() as session:
        for each in (request_id, other):
            idempotency.keep(session, "key_test", each, b"f" * 32, each, {})
    with parts.database.writing() as session:
        request_keys.shred(session, request_id, reason="ordered")
    with parts.database.reading() as session:
        assert idempotency.find(session, "key_test", request_id, b"f" * 32) is None
        assert idempotency.find(session, "key_test", other, b"f" * 32) == {}
        moments = {
            each: session.scalar(
                select(Suppression.created_at).where(
                    Suppression.dataset_id == session.get_one(DeletionRequest, each).dataset_id
                )
            )
            for each in (request_id, other)
        }
    assert moments[request_id] == datetime(1970, 1, 1, tzinfo=UTC)
    kept = moments[other]
    assert kept is not None
    assert now() - kept < timedelta(minutes=10)


def test_only_a_request_that_is_over_is_shredded_and_only_once(parts: Parts) -> None:
    still = _request(parts, _name(parts, "once"), "train-0", models=[_name(parts, "m-once")])
    with pytest.raises(Conflict, match="until it is over"), parts.database.writing() as session:
        request_keys.shred(session, still, reason="ordered")
    with pytest.raises(NotFound), parts.database.writing() as session:
        request_keys.shred(session, "req_nobody", reason="ordered")
    with parts.database.writing() as session:
        requests.move(session, requests.get(session, still), RequestStatus.CANCELLED)
    with parts.database.writing() as session:
        request_keys.shred(session, still, reason="ordered")
    with pytest.raises(Gone), parts.database.writing() as session:
        request_keys.shred(session, still, reason="ordered")


def _files(parts: Parts) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(parts.settings.data_dir.glob("unlearn.db*")))


def test_after_shredding_no_database_file_holds_the_key_or_a_commitment(in_files: Parts) -> None:
    database, wrapping = in_files.database, in_files.secrets.wrapping
    request_id = _request(in_files, "shred", *(f"audit-{i}" for i in range(5)))
    with database.reading() as session:
        key = request_keys.of(session, request_id, wrapping)
        wrapped, leaves = session.get_one(RequestKey, request_id).key, request_keys.leaves_of(session, request_id)
        root = session.get_one(DeletionRequest, request_id).commitment_root
    assert key is not None
    assert wrapped in _files(in_files), "this check can fail"
    assert leaves[0] in _files(in_files)
    assert key not in _files(in_files)
    with database.writing() as session:
        request_keys.shred(session, request_id, reason="ordered")
    assert traces.scrub(database)
    for secret in (key, key.hex().encode(), wrapped, wrapped[12:44], *leaves):
        assert secret not in _files(in_files)
    assert root.encode() in _files(in_files)
    assert (in_files.settings.data_dir / "unlearn.db-wal").stat().st_size <= 64 * 1024
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(FileTrace)) == 0
    assert not traces.scrub(database), "nothing is left to do"


def test_files_are_scrubbed_only_once_a_trace_has_waited(parts: Parts) -> None:
    _request(parts, _name(parts, "wait"), "audit-0")
    assert not traces.scrub(parts.database, older_than_seconds=3600)
    assert traces.scrub(parts.database, older_than_seconds=0)


def test_a_journal_that_is_being_read_is_cut_later(traced: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.session.SQLITE_BUSY_SECONDS", 0)
    impatient = Database(make_engine(traced.engine.url.render_as_string()))
    with traced.reading() as session:
        session.scalar(select(func.count()).select_from(FileTrace))
        _leave_a_trace(traced)
        assert not traces.scrub(impatient)
    assert traces.scrub(impatient)
    impatient.dispose()


def test_a_journal_that_is_being_read_keeps_nobody_from_writing(traced: Database) -> None:
    with traced.reading() as session, ThreadPoolExecutor() as pool:
        session.scalar(select(func.count()).select_from(FileTrace))
        scrubbing = pool.submit(traces.scrub, traced)
        written = 0
        while not scrubbing.done():
            _leave_a_trace(traced)
            written += 1
            time.sleep(0.05)
        assert not scrubbing.result(), "the reader is still there"
    assert written >= 2, "writers come in between the tries"
    with traced.looking_up() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * SQLITE_BUSY_SECONDS
    assert traces.scrub(traced)


def test_a_journal_that_is_being_read_does_not_grow_with_each_try(traced: Database, tmp_path: Path) -> None:
    journal, lengths = tmp_path / "unlearn.db-wal", []
    with traced.reading() as session:
        session.scalar(select(func.count()).select_from(FileTrace))
        for _ in range(3):
            assert not traces.scrub(traced), "the reader is still there"
            lengths.append(journal.stat().st_size)
    assert lengths[0] == lengths[1] == lengths[2], "the whole file would be in it once more each time"
    assert traces.scrub(traced)


def test_the_cli_shreds_by_id_and_what_is_over(
    in_files: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLEARN_DATA_DIR", str(tmp_path))
    request_id, other = _request(in_files, "first", "audit-0"), _request(in_files, "second", "audit-0")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["shred", *arguments, "--data-dir", str(tmp_path)])
        return result.exit_code, result.output

    assert run()[0] == run(request_id, "--expired")[0] == 2
    assert run("req_nobody") == (1, "There is no such deletion request.\n")
    assert run("--expired") == (0, "shredded 0\n")
    assert run(request_id) == (0, "shredded 1\n")
    assert run(request_id)[0] == 1
    with in_files.database.writing() as session:
        session.execute(update(RequestKey).values(keep_until=now()))
    assert run("--expired") == (0, "shredded 1\n")
    assert _stored(in_files, other) is None


def test_a_scrub_writes_sqlites_file_anew_so_that_no_freed_page_stays(in_files: Parts) -> None:
    database = in_files.database
    with database.writing() as session:
        session.execute(text("CREATE TABLE filler (bytes BLOB)"))
        session.execute(text("INSERT INTO filler VALUES (zeroblob(200000))"))
    with database.writing() as session:
        session.execute(text("DROP TABLE filler"))
        traces.note(session, "samples")
    freed = []
    for scrubbed in (False, True):
        if scrubbed:
            assert traces.scrub(database)
        with database.reading() as session:
            freed.append(session.scalar(text("PRAGMA freelist_count")))
    assert freed[0] > 0
    assert freed[1] == 0
