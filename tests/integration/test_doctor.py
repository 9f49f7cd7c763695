"""`unlearn doctor` names what is wrong and what to do, also where nothing else works, and no secret."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import doctor, migrate, worker_health
from service.doctor import Finding, machine, settings_fit
from service.evidence.key_wrapping import wrapping_key
from service.settings import Settings
from service.store import intake, workers
from service.store.intake import Secrets
from service.store.session import Database
from service.store.tables import Worker
from service.store.types import now
from tests import factories
from tests.no_room import no_room

SECRET = "b7d0" * 16
PASSWORD = "hunter2-hunter2"


@dataclass
class Store:
    settings: Settings
    database: Database


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading torch takes seconds; the last test has it loaded."""
    monkeypatch.setattr(machine, "_ASK_TORCH", 'print(\'{"torch": "2", "cuda": null, "visible": false}\')')


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, allowed_roots=str(tmp_path))


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    migrate.upgrade(settings.resolved_database_url)
    assert settings.master_key_bytes
    found = Database.open(settings)
    with found.writing() as session:
        workers.seen(session, "w:1")
    yield found
    found.dispose()


def _found(settings: Settings, level: str) -> dict[str, Finding]:
    return {finding.part: finding for finding in doctor.examine(lambda: settings) if finding.level == level}


def test_where_all_is_well_nothing_is_at_fault(settings: Settings, database: Database) -> None:
    assert _found(settings, "fault") == {}
    well = _found(settings, "ok")
    assert {"database", "migrations", "broker", "artifacts", "workers", "master key", "device", "clock"} <= set(well)
    assert {path.name for path in (settings.data_dir / "artifacts").rglob("*")} == set()
    assert not list((settings.data_dir / "broker").rglob("*doctor*"))


def test_on_postgresql_and_valkey_too(tmp_path: Path, postgres_database_url: str, valkey_url: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=postgres_database_url, broker_url=valkey_url)
    migrate.upgrade(postgres_database_url)
    assert list(_found(settings, "fault")) == ["workers"], "none runs"
    assert {"broker", "migrations", "clock"} <= set(_found(settings, "ok"))


def test_without_a_database_it_says_so_and_makes_none(settings: Settings) -> None:
    assert "unlearn migrate" in _found(settings, "fault")["database"].todo
    assert not (settings.data_dir / "unlearn.db").exists()
    assert not (settings.data_dir / "master.key").exists()


def test_with_everything_down_it_still_reports_each(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path,
        database_url=f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:9/x",
        broker_url=f"redis://:{PASSWORD}@127.0.0.1:9/0",
        artifacts_url=str(tmp_path / "file" / "below"),
        master_key=SECRET,
    )
    (tmp_path / "file").write_text("no folder")
    found = list(doctor.examine(lambda: settings))
    assert {"database", "broker", "artifacts"} <= {finding.part for finding in found if finding.level == "fault"}
    said = "".join(finding.line for finding in found)
    assert PASSWORD not in said
    assert SECRET not in said


def test_settings_that_do_not_fit_are_each_named_without_their_values() -> None:
    found = list(doctor.examine(lambda: Settings(master_key=SECRET[:-2], lease_seconds=-1, time_zone="Mars/Base")))
    assert [finding.level for finding in found] == ["fault"] * 3
    assert SECRET[:-2] not in "".join(finding.line for finding in found)


def test_a_schema_that_is_behind_and_a_trigger_that_is_gone_are_faults(settings: Settings, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("DROP TRIGGER audit_entries_no_update"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    found = _found(settings, "fault")
    assert "compare the log" in found["database"].todo
    assert "unlearn migrate" in found["migrations"].todo


def test_workers_that_are_gone_or_deaf_are_faults(settings: Settings, database: Database) -> None:
    with database.writing() as session:
        session.get_one(Worker, "w:1").leaves_work_since = now() - timedelta(hours=1)
    assert "1 deaf" in _found(settings, "fault")["workers"].found
    with database.writing() as session:
        session.get_one(Worker, "w:1").seen_at = now() - timedelta(hours=1)
    assert "Start a worker" in _found(settings, "fault")["workers"].todo


def test_another_master_key_than_the_database_was_written_with_is_a_fault(
    settings: Settings, database: Database
) -> None:
    store = Store(settings, database)
    factories.dataset(store)
    wrapping = wrapping_key(settings.master_key_bytes)
    with database.writing() as session:
        intake.accept(
            session, factories.order("d", "train-1"), Secrets(suppression=b"s" * 32, wrapping=wrapping, time_zone="UTC")
        )
    assert "master key" in _found(settings, "ok")
    other = Settings(data_dir=settings.data_dir, master_key=SECRET)
    assert "written with" in _found(other, "fault")["master key"].todo


def test_the_command_exits_1_on_a_fault_and_speaks_json(tmp_path: Path) -> None:
    doctoring = [sys.executable, "-m", "service.cli", "doctor", "--json", "--data-dir", str(tmp_path)]
    done = subprocess.run(doctoring, env={**os.environ, "UNLEARN_DEVICE": "cpu"}, capture_output=True, timeout=200)
    assert done.returncode == 1
    found = {line["part"]: line for line in json.loads(done.stdout)}
    assert (found["database"]["level"], found["device"]["level"]) == ("fault", "ok")
    assert "torch" in found["device"]["found"]


def test_weights_for_fid_that_are_no_safetensors_are_told(settings: Settings) -> None:
    path = settings.data_dir / "inception.safetensors"
    named = settings.model_copy(update={"inception_weights": path})
    assert "UNLEARN_INCEPTION_WEIGHTS" in str(list(settings_fit.look(named)))
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert "UNLEARN_INCEPTION_WEIGHTS" not in str(list(settings_fit.look(named)))
    assert "UNLEARN_INCEPTION_WEIGHTS" not in str(list(settings_fit.look(settings)))


def test_a_signing_key_that_cannot_sign_is_a_fault_before_any_has_signed_and_none_is_served_with(
    settings: Settings, database: Database
) -> None:
    named = Settings(data_dir=settings.data_dir, signing_key="garbage")
    assert "64 hexadecimal" in _found(named, "fault")["signing key"].todo
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    serve = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data-dir", str(settings.data_dir)]
    for key, said in (("garbage", "64 hexadecimal"), ("", "UNLEARN_LEASE_SECONDS: Input")):
        given = {"UNLEARN_SIGNING_KEY": key, "UNLEARN_LEASE_SECONDS": "30" if key else "inf"}
        done = subprocess.run(serve, env=env | given, capture_output=True, text=True, timeout=200)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert "garbage" not in done.stderr


def test_a_journal_that_is_not_there_yet_is_not_made_and_is_a_fault_where_it_cannot_be(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.data_dir / "file").write_text("no folder")
    named = Settings(data_dir=settings.data_dir, erasure_journal_url=str(settings.data_dir / "file" / "below"))
    assert "may the service write" in _found(named, "fault")["erasure journal"].todo
    assert "not there yet" in _found(settings, "ok")["erasure journal"].found
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != settings.data_dir or not mode & os.W_OK)
    assert "PermissionError" in _found(settings, "fault")["erasure journal"].found
    assert not (settings.data_dir / "erasures").exists()


def test_a_journal_that_is_there_is_written_and_left_as_it_was(settings: Settings) -> None:
    folder = settings.data_dir / "erasures"
    folder.mkdir(mode=0o700)
    before = folder.stat().st_mtime_ns
    assert "can be written" in _found(settings, "ok")["erasure journal"].found
    assert folder.stat().st_mtime_ns > before
    assert not list(folder.iterdir())


def test_a_full_disk_is_named_as_the_cause(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings.data_dir / "erasures").mkdir()
    with no_room():
        found = _found(settings, "fault")
    assert {found[part].found for part in ("broker", "artifacts", "erasure journal")} == {"its disk is full"}
    usage = SimpleNamespace(total=2**40, used=2**40, free=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "the data folder's disk is full" in _found(settings, "fault")["disk"].found


def _refuses_to_compare(settings: Settings) -> None:
    database = Database.open(settings)
    with database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    database.dispose()
    assert list(_found(settings, "fault")) == ["migrations"]
    assert "migrations" in _found(settings, "warning")["keys"].todo
    with pytest.raises(SQLAlchemyError) as refusal:
        worker_health.check(settings)
    assert "unlearn migrate" in worker_health.why_not(settings, refusal.value)


def test_an_old_an_empty_and_a_damaged_database_are_each_called_that(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, master_key=SECRET)
    _refuses_to_compare(settings)  # its file is made, and empty
    command.upgrade(migrate.config(settings.resolved_database_url), "0001")
    _refuses_to_compare(settings)
    for path in tmp_path.glob("unlearn.db*"):
        path.unlink()
    (tmp_path / "unlearn.db").write_bytes(b"no database at all, " * 100)
    assert "is damaged" in _found(settings, "fault")["database"].found
    with pytest.raises(SQLAlchemyError) as refusal:
        worker_health.check(settings)
    assert "is damaged" in worker_health.why_not(settings, refusal.value)


def test_a_misspelt_setting_and_a_missing_root_are_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLEARN_LEASE_SECOND", "5")
    missing = settings.data_dir / "nowhere"
    said = str(list(settings_fit.look(settings.model_copy(update={"allowed_roots": str(missing)}))))
    assert "UNLEARN_LEASE_SECOND is no setting" in said
    assert "Is UNLEARN_LEASE_SECONDS meant?" in said
    assert str(missing) in said
