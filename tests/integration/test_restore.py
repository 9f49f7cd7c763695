"""Backup, loss, restore and replay, on both databases: what was forgotten stays forgotten, and the log goes on."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from alembic import command
from pydantic import SecretStr
from sqlalchemy import func, inspect, select, update
from sqlalchemy.exc import SQLAlchemyError
from typer.testing import CliRunner

from service import backup, backup_cli, backup_tables, journaling, migrate, restore_gate
from service.artifacts import ArtifactStore, file_digest
from service.cli import app
from service.doctor import places
from service.erasure_journal import Journal, Segment, journal_key, story
from service.errors import Conflict, PreconditionFailed, ServiceError, WrongStore
from service.evidence.commitments import suppression_key
from service.evidence.key_wrapping import wrapping_key
from service.lifecycle import VersionState
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store import (
    artifact_stores,
    audit_tree,
    cancel,
    checkpoints,
    decisions,
    intake,
    keys,
    replays,
    request_keys,
    samples,
    schema,
    signing_keys,
    versions,
    webhooks,
)
from service.store.intake import Secrets
from service.store.session import Database, make_engine
from service.store.tables import (
    ApiKey,
    DeletionRequest,
    ErasedToken,
    Model,
    RequestKey,
    Restore,
    Sample,
    SigningKey,
    Suppression,
    Version,
    WebhookEndpoint,
)
from service.store.types import now
from tests import factories
from tests.migrated import copy_sqlite
from tests.servers import fresh_database
from workers import leftovers, tasks
from workers.bench import Bench

SECRETS = {"master_key": os.urandom(32).hex(), "signing_key": os.urandom(32).hex()}


@dataclass
class Service:
    settings: Settings
    database: Database

    @property
    def secrets(self) -> Secrets:
        master = self.settings.master_key_bytes
        return Secrets(suppression=suppression_key(master), wrapping=wrapping_key(master), time_zone="UTC")

    def erase(self, *named: str) -> str:
        with self.database.writing() as session:
            return intake.accept(session, factories.order("d", *named), self.secrets).request.id

    def journal(self) -> Journal:
        return Journal(self.settings.resolved_erasure_journal_url, journal_key(self.settings.master_key_bytes))


@dataclass
class Case:
    """A service with a dataset and a model, and an empty place to restore it to."""

    root: Path
    first: Service
    second: Settings

    def back_up(self) -> Path:
        backup_cli.make(self.first.settings, self.root / "backup", prune=False)
        return self.root / "backup"

    def lose_and_restore(self) -> Service:
        journaling.write(self.first.database, self.first.settings)
        self.first.database.dispose()
        shutil.rmtree(self.first.settings.data_dir)
        backup_cli.restore(self.second, self.root / "backup")
        return Service(self.second, Database.open(self.second))


@pytest.fixture(params=["sqlite", "postgresql"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    if request.param == "sqlite":
        yield from _case(tmp_path, "", "")
        return
    server = request.getfixturevalue("postgres_url")
    with fresh_database(server) as first, fresh_database(server) as second:
        yield from _case(tmp_path, first, second)


def _case(root: Path, first: str, second: str) -> Iterator[Case]:
    common: dict[str, Any] = {**SECRETS, "erasure_journal_url": str(root / "journal")}
    settings = Settings(data_dir=root / "first", database_url=first, **common)
    settings.data_dir.mkdir()
    migrate.upgrade(settings.resolved_database_url)
    service = Service(settings, Database.open(settings))
    factories.dataset(service)
    factories.model(service)
    factories.version(service)
    (root / "second").mkdir()
    yield Case(root, service, Settings(data_dir=root / "second", database_url=second, **common))
    service.database.dispose()


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


def test_what_was_erased_retired_shredded_and_revoked_since_the_backup_is_so_again(case: Case) -> None:
    old = case.first
    early = old.erase("audit-1")
    with old.database.writing() as session:
        key, _ = keys.create(session, name="k", scopes=["admin"])
    case.back_up()
    with old.database.writing() as session:
        request_keys.shred(session, early, reason="ordered")
        keys.revoke(session, key.id)
        version = session.scalars(select(Version)).one()
        versions.move(session, version, VersionState.RETIRED)
        lost = versions.create(
            session, session.get_one(Model, version.model_id), state=VersionState.ACTIVE, role="original",
            origin="upload", sha256="c" * 64, size_bytes=1,
        )  # fmt: skip
    old.erase("audit-2")
    missing = old.erase("train-2")
    checkpoint = checkpoints.fresh(old.database, old.settings)

    new = case.lose_and_restore()
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        assert session.get_one(Version, version.id).state == VersionState.ACTIVE, "so nothing may be served yet"
    backup_cli.replay(new.settings, nothing=None)
    with new.database.writing() as session:
        assert replays.pending(session) is None
        left = session.scalars(select(Sample.sample_id).where(Sample.sample_id.in_(["d-audit-1", "d-audit-2"])))
        assert list(left) == []
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), ["d-audit-2"])
        assert known == {"d-audit-2"}
        assert session.get_one(Version, version.id).state == VersionState.RETIRED
        assert versions.was_retired(session, version.sha256, None)
        again = session.scalars(select(Version).where(Version.number == lost.number)).one()
        assert (again.state, again.sha256) == (VersionState.REJECTED, "c" * 64)
        assert not versions.was_retired(session, "c" * 64, None), "it may be uploaded again"
        assert session.get(RequestKey, early) is None
        assert session.get_one(ApiKey, key.id).revoked_at is not None
        assert session.get(DeletionRequest, missing) is None
        restore = session.scalars(select(Restore)).one()
        assert restore.found is not None
        assert (restore.found["suppressed"], restore.found["lost_requests"]) == (1, 1)
        audit_tree.integrate(session)
        assert audit_tree.root(session, checkpoint.size) == checkpoint.root, "as it was signed before the loss"
    assert checkpoints.fresh(new.database, new.settings).size > checkpoint.size
    assert new.erase("audit-3"), "and work goes on"
    journaling.write(new.database, new.settings)
    with new.database.reading() as session:
        assert not session.scalar(select(func.count()).select_from(ErasedToken))
    new.database.dispose()


def version_dataset(session: Any) -> str:
    return str(session.scalars(select(Model.dataset_id)).one())


def test_decisions_taken_since_the_backup_are_taken_again(case: Case) -> None:
    old = case.first
    cancelled, denied, held = (old.erase(f"train-{number}") for number in (1, 2, 3))
    case.back_up()
    with old.database.writing() as session:
        cancel.cancel(session, cancelled)
    with old.database.writing() as session:
        decisions.deny(session, denied, reason="identity_not_verified", note=None, by="key_x")
    with old.database.writing() as session:
        decisions.hold(session, held, note="a court says so", by="key_x")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        found = {name: session.get_one(DeletionRequest, name).status for name in (cancelled, denied, held)}
    assert found == {cancelled: "cancelled", denied: "denied", held: "on_hold"}
    new.database.dispose()


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


def test_no_journal_or_one_that_lacks_or_changed_a_segment_is_no_replay(case: Case) -> None:
    case.back_up()
    journal = case.first.journal()
    for name in ("audit-1", "audit-2"):
        case.first.erase(name)
        journaling.write(case.first.database, case.first.settings)
    new = case.lose_and_restore()
    paths = sorted((case.root / "journal").iterdir())
    assert len(paths) >= 3
    middle = paths[-2]
    whole = middle.read_bytes()
    middle.write_bytes(whole.replace(b'"token":"', b'"token":"00', 1))
    with pytest.raises(PreconditionFailed, match="changed"):
        backup_cli.replay(new.settings, nothing=None)
    middle.unlink()
    with pytest.raises(PreconditionFailed, match="missing"):
        backup_cli.replay(new.settings, nothing=None)
    paths[0].unlink()
    with pytest.raises(Conflict, match="lacks entries"):
        backup_cli.replay(new.settings, nothing=None)
    shutil.move(case.root / "journal", case.root / "away")
    with pytest.raises(ServiceError, match="There is no erasure journal"):
        backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        assert replays.pending(session) is not None
        with pytest.raises(Conflict, match="unlearn replay"):
            replays.refuse_writing(session)
    backup_cli.replay(new.settings, nothing="the journal burnt too")
    with new.database.reading() as session:
        restore = session.scalars(select(Restore)).one()
    assert restore.finished_at is not None
    assert restore.found == {"nothing_to_replay": True, "reason": "the journal burnt too"}
    assert journal.numbers() == []
    new.database.dispose()


@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_what_is_left_of_a_lost_sqlite_file_is_not_played_into_the_restored_one(tmp_path: Path, end: str) -> None:
    for case in _case(tmp_path, "", ""):
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


def test_the_journal_holds_each_entry_and_token_once_and_neither_id_nor_key(case: Case) -> None:
    old, journal = case.first, case.first.journal()
    old.erase("audit-1")
    size = journaling.write(old.database, old.settings)
    assert journaling.write(old.database, old.settings) == size, "and nothing where nothing is new"
    old.erase("audit-2", "audit-3")
    size = journaling.write(old.database, old.settings)
    segments = [journal.read(number) for number in journal.numbers()]
    assert [entry["seq"] for segment in segments for entry in segment.entries] == list(range(size))
    tokens = [token for segment in segments for token in segment.tokens]
    with old.database.reading() as session:
        rows = session.scalars(select(Suppression)).all()
    assert sorted(tokens) == sorted((row.dataset_id, row.token.hex()) for row in rows)
    for path in (case.root / "journal").iterdir():
        assert b"d-audit" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal.remove_before(max(journal.numbers())) == len(segments) - 1


def _webhooks(session: Any, *ids: str) -> None:
    key, _ = keys.create(session, name="k", scopes=["admin"])
    for each in ids:
        webhooks.create(
            session, endpoint_id=each, key_id=key.id, url="https://example.org/", host="example.org",
            events=["request.completed"], description="", secret=b"s",
        )  # fmt: skip


def test_a_signing_key_revoked_and_webhooks_ended_since_the_backup_are_not_trusted_again(case: Case) -> None:
    old = case.first
    with old.database.writing() as session:
        stolen = signing_keys.current(session, old.settings).key_id
        _webhooks(session, "whk_deleted", "whk_rotated", "whk_kept")
    case.back_up()
    with old.database.writing() as session:
        signing_keys.revoke(session, stolen, reason="stolen")
        renewed = old.settings.model_copy(update={"signing_key": SecretStr(os.urandom(32).hex())})
        fresh = signing_keys.rotate(session, renewed).key_id
        webhooks.delete(session, session.get_one(WebhookEndpoint, "whk_deleted"))
        webhooks.rotate(session, session.get_one(WebhookEndpoint, "whk_rotated"), b"t", previous_until=None)
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    with new.database.reading() as session:
        row = session.get_one(SigningKey, stolen)
        assert (row.reason, row.revoked_at is not None) == ("stolen", True)
        assert signing_keys.current(session, renewed).key_id == fresh
        found = {row.id: row.enabled for row in session.scalars(select(WebhookEndpoint))}
    new.database.dispose()
    assert found == {"whk_rotated": False, "whk_kept": True}


def _newest(case: Case) -> Path:
    return max((case.root / "journal").iterdir())


def test_a_journal_that_ends_before_its_backup_is_not_replayed(case: Case) -> None:
    for name in ("audit-1", "audit-2"):
        case.first.erase(name)
        journaling.write(case.first.database, case.first.settings)
    case.back_up()
    new = case.lose_and_restore()
    _newest(case).unlink()
    with pytest.raises(Conflict, match="newest segments are missing"):
        backup_cli.replay(new.settings, nothing=None)
    new.database.dispose()


@pytest.mark.parametrize("most", [journaling.MOST_TOKENS, 2])
def test_a_journal_that_ends_before_a_checkpoint_from_outside_is_not_replayed(
    case: Case, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """However many segments a long list of ids takes: the log does not get further than they do."""
    monkeypatch.setattr(journaling, "MOST_TOKENS", most)
    case.back_up()
    case.first.erase(*(f"audit-{number}" for number in range(5)))
    note = case.root / "checkpoint"
    note.write_text(checkpoints.fresh(case.first.database, case.first.settings).note)
    new = case.lose_and_restore()
    newest = _newest(case)
    newest.rename(case.root / "gone")
    with pytest.raises(Conflict, match="a checkpoint of"):
        backup_cli.replay(new.settings, nothing=None, checkpoint=note)
    with new.database.reading() as session:
        assert replays.pending(session) is not None
    (case.root / "gone").rename(newest)
    altered = case.root / "altered"
    altered.write_text(note.read_text().replace("\n", "\n1", 1))
    with pytest.raises(Conflict, match="cannot be used"):
        backup_cli.replay(new.settings, nothing=None, checkpoint=altered)
    backup_cli.replay(new.settings, nothing=None, checkpoint=note)
    with new.database.reading() as session:
        named = [f"d-audit-{number}" for number in range(5)]
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), named)
    new.database.dispose()
    assert known == set(named)


def test_a_running_service_writes_again_what_was_cut_from_its_journal(case: Case) -> None:
    old = case.first
    for name in ("audit-1", "audit-2", "audit-3"):
        old.erase(name)
        journaling.write(old.database, old.settings)
    told = {each.level for each in places.journal(old.settings)}
    assert "fault" not in told
    _newest(case).unlink()
    _newest(case).unlink()
    assert "fault" in {each.level for each in places.journal(old.settings)}
    old.erase("audit-4")
    size = journaling.write(old.database, old.settings)
    segments = old.journal().whole()
    assert sorted(story(segments)) == list(range(size))
    with old.database.reading() as session:
        erased = {row.token.hex() for row in session.scalars(select(Suppression))}
    assert {token for segment in segments for _, token in segment.tokens} == erased
    assert journaling.write(old.database, old.settings) == size, "and not again at each turn"
    assert len(old.journal().numbers()) == len(segments)
    assert "fault" not in {each.level for each in places.journal(old.settings)}


def test_a_segment_of_another_history_does_not_fit_in(tmp_path: Path) -> None:
    journals = [Journal(str(tmp_path / name), b"k" * 32) for name in ("one", "other")]
    for journal in journals:
        first = journal.append(Segment(number=1, first=0, end=0, last_leaf="", journal=f"of {journal}"))
        journal.append(Segment(number=2, first=0, end=0, last_leaf="", journal=first.journal, previous=first.mac))
        assert len(journal.whole()) == 2
    (tmp_path / "one" / "erasures-0000000002.ndjson").unlink()
    shutil.copy(tmp_path / "other" / "erasures-0000000002.ndjson", tmp_path / "one")
    with pytest.raises(PreconditionFailed, match="does not follow"):
        journals[0].whole()


def test_segments_of_a_release_that_did_not_chain_them_are_read(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), b"k" * 32)
    for number in (1, 2):
        journal.append(Segment(number=number, first=0, end=0, last_leaf=""))
    assert [segment.previous for segment in journal.whole()] == ["", ""]


def test_a_journal_begun_elsewhere_has_all_that_was_ever_erased(case: Case) -> None:
    case.back_up()
    case.first.erase("audit-1", "audit-2")
    journaling.write(case.first.database, case.first.settings)
    shutil.move(case.root / "journal", case.root / "away")
    case.first.erase("audit-3")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing=None)
    named = [f"d-audit-{number}" for number in (1, 2, 3)]
    with new.database.reading() as session:
        known = samples.suppressed(session, new.secrets.suppression, version_dataset(session), named)
    new.database.dispose()
    assert known == set(named)


def test_a_process_that_goes_on_notices_that_its_database_was_restored(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_gate, "ASK_AGAIN_SECONDS", 0.0)
    gate = restore_gate.RestoreGate(case.first.database)
    assert not gate.due()
    with case.first.database.writing() as session:
        session.add(Restore(id="rst_1", backup_id="bak_1", backup_at=now(), log_size=0, restored_at=now()))
    assert not gate.opened
    assert gate.due()


def test_a_log_taken_up_again_without_a_replay_is_journaled_from_where_it_was_restored(case: Case) -> None:
    case.back_up()
    case.first.erase("audit-1")
    new = case.lose_and_restore()
    backup_cli.replay(new.settings, nothing="it was a drill")
    new.erase("audit-2")
    journaling.write(new.database, new.settings)
    journal = new.journal()
    found = story([journal.read(number) for number in journal.numbers()])
    with new.database.writing() as session:
        size = audit_tree.head(session)
        session.execute(update(Restore).values(finished_at=None))
    assert sorted(found) == list(range(size))
    assert [entry["action"] for entry in found.values()].count("service.restored") == 1
    new.database.dispose()
