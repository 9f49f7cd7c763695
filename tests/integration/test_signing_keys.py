"""Signing keys over their life: the first one is agreed on, each change is in the log, and no other key signs."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service import migrate
from service.errors import Conflict, NotFound, Unavailable
from service.evidence.signing import Signer
from service.settings import Settings
from service.store import audit, checkpoints, signing_keys
from service.store.session import Database
from service.store.types import now
from tests.servers import fresh_database

SEEDS = ["01" * 32, "02" * 32]


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    with ExitStack() as stack:
        url = ""
        if request.param == "postgresql":
            url = stack.enter_context(fresh_database(request.getfixturevalue("postgres_url")))
        found = Settings(data_dir=tmp_path, database_url=url)
        migrate.upgrade(found.resolved_database_url)
        yield found


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    found = Database.open(settings)
    yield found
    found.dispose()


def current(database: Database, settings: Settings) -> Signer:
    with database.writing() as session:
        return signing_keys.current(session, settings)


def rotate(database: Database, settings: Settings) -> Signer:
    with database.writing() as session:
        return signing_keys.rotate(session, settings)


def revoke(database: Database, key_id: str) -> None:
    with database.writing() as session:
        signing_keys.revoke(session, key_id, reason="lost")


def actions(database: Database) -> list[tuple[str, str]]:
    with database.reading() as session:
        return [(entry.action, entry.subject.partition("/")[2]) for entry in audit.find(session)]


def seeded(settings: Settings, seed: str) -> Settings:
    return Settings(data_dir=settings.data_dir, database_url=settings.database_url, signing_key=seed)


def test_the_first_key_is_made_once_kept_private_and_logged(database: Database, settings: Settings) -> None:
    first = current(database, settings)
    assert current(database, settings) == first
    path = settings.data_dir / "signing.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert actions(database) == [("signing_key.added", first.key_id)]
    with database.reading() as session:
        assert signing_keys.current(session, settings) == first
        (row,) = signing_keys.every(session)
        assert (row.public_key, row.not_after, row.revoked_at) == (first.public_key, None, None)
        assert row.not_before <= now()


def test_a_reading_session_cannot_add_the_first_key(database: Database, settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="writing session"), database.reading() as session:
        signing_keys.current(session, settings)


SCRIPT = """
from service.settings import Settings
from service.store import checkpoints, signing_keys
from service.store.session import Database
settings = Settings()
database = Database.open(settings)
with database.writing() as session:
    print(signing_keys.current(session, settings).key_id)
"""


def test_processes_that_start_together_agree_on_one_key(database: Database, settings: Settings) -> None:
    env = {**os.environ, "UNLEARN_DATA_DIR": str(settings.data_dir), "UNLEARN_DATABASE_URL": settings.database_url}
    run: dict[str, Any] = {"env": env, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, "-c", SCRIPT], **run) for _ in range(4)]
    printed = {process.communicate(timeout=120)[0].strip() for process in started}
    assert printed == {current(database, settings).key_id}
    assert len(actions(database)) == 1


def test_rotation_retires_the_old_key_and_overwrites_its_private_half(database: Database, settings: Settings) -> None:
    first = current(database, settings)
    private = (settings.data_dir / "signing.key").read_text()
    second = rotate(database, settings)
    assert second.key_id != first.key_id
    assert current(database, settings) == second
    assert actions(database) == [
        ("signing_key.added", first.key_id),
        ("signing_key.retired", first.key_id),
        ("signing_key.added", second.key_id),
    ]
    assert sorted(path.name for path in settings.data_dir.glob("signing*")) == ["signing.key"]
    assert (settings.data_dir / "signing.key").read_text() != private
    with database.reading() as session:
        old, new = signing_keys.every(session)
        assert (old.not_after, new.not_after) == (new.not_before, None)


def test_checkpoints_of_a_retired_key_are_still_built_upon(database: Database, settings: Settings) -> None:
    before = checkpoints.fresh(database, settings)
    second = rotate(database, settings)
    after = checkpoints.fresh(database, settings)
    assert after.size > before.size
    assert after.key_id == second.key_id != before.key_id


def test_a_rotation_that_was_not_committed_changes_nothing(database: Database, settings: Settings) -> None:
    first = current(database, settings)
    with pytest.raises(RuntimeError, match="stop"):
        _rotate_half_way(database, settings)
    assert current(database, settings) == first
    assert current(database, settings) != rotate(database, settings) == current(database, settings)


def _rotate_half_way(database: Database, settings: Settings) -> None:
    with database.writing() as session:
        signing_keys.rotate(session, settings)
        raise RuntimeError("stop")


def test_a_configured_key_becomes_current_by_rotation_alone(database: Database, settings: Settings) -> None:
    one, two = (seeded(settings, seed) for seed in SEEDS)
    first = current(database, one)
    with pytest.raises(Unavailable, match="signing-keys rotate"):
        current(database, two)
    with pytest.raises(Conflict, match="new key first"):
        rotate(database, one)
    second = rotate(database, two)
    assert current(database, two) == second
    with pytest.raises(Unavailable, match="current one is"):
        current(database, one)
    with pytest.raises(Conflict):
        rotate(database, one)
    assert first.key_id != second.key_id


def test_a_revoked_key_signs_nothing_more(database: Database, settings: Settings) -> None:
    first = current(database, settings)
    revoke(database, first.key_id)
    revoke(database, first.key_id)
    with pytest.raises(Unavailable, match="was revoked"):
        current(database, settings)
    second = rotate(database, settings)
    assert current(database, settings) == second
    assert [action for action, _ in actions(database)] == [
        "signing_key.added",
        "signing_key.revoked",
        "signing_key.added",
    ]
    with database.reading() as session:
        assert signing_keys.every(session)[0].reason == "lost"


def test_an_unknown_key_cannot_be_revoked(database: Database) -> None:
    with pytest.raises(NotFound, match="no such signing key"):
        revoke(database, "00")


def test_a_key_file_that_is_gone_or_open_to_others_signs_nothing(database: Database, settings: Settings) -> None:
    current(database, settings)
    path = settings.data_dir / "signing.key"
    path.chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        current(database, settings)
    path.unlink()
    with pytest.raises(Unavailable, match="cannot be read"):
        current(database, settings)
    assert not path.exists(), "a lost key is not replaced in silence"


def test_a_key_is_read_from_the_file_that_is_named(database: Database, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.pem"
    path.touch(0o600)
    path.write_text(SEEDS[0])
    named = Settings(data_dir=settings.data_dir, database_url=settings.database_url, signing_key_file=path)
    assert current(database, named) == Signer.of_seed(bytes.fromhex(SEEDS[0]), name=named.log_origin)
    assert not (settings.data_dir / "signing.key").exists()
