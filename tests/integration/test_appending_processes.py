"""Eight processes append at once, and two sign meanwhile: no gap, no fork, no lost entry, and the tree verifies."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from service import migrate
from service.evidence import merkle, notes
from service.evidence.log_verification import verify_log
from service.settings import Settings
from service.store import audit, checkpoints, signing_keys
from service.store.session import Database
from tests.servers import fresh_database

PROCESSES, TRANSACTIONS = 8, 25
SCRIPT = """
import sys
from service.settings import Settings
from service.store import audit, checkpoints
from service.store.session import Database
name, transactions = sys.argv[1], int(sys.argv[2])
settings = Settings()
database = Database.open(settings)
for i in range(transactions):
    with database.writing() as session:
        for j in range(1 + i % 3):
            audit.record(session, "test.done", subject=f"{name}/{i}/{j}", payload={"by": name}, links={"test": name})
    if name in ("0", "1") and i % 5 == 0:
        checkpoints.fresh(database, settings)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_eight_processes_append_at_once_and_nothing_is_lost(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with ExitStack() as stack:
        url = ""
        if kind == "postgresql":
            url = stack.enter_context(fresh_database(request.getfixturevalue("postgres_url")))
        settings = Settings(data_dir=tmp_path, database_url=url)
        migrate.upgrade(settings.resolved_database_url)
        _run_all(settings)
        database = Database.open(settings)
        stack.callback(database.dispose)
        _check(database, settings)


def _run_all(settings: Settings) -> None:
    env = {**os.environ, "UNLEARN_DATA_DIR": str(settings.data_dir), "UNLEARN_DATABASE_URL": settings.database_url}
    command = [sys.executable, "-c", SCRIPT]
    started = [subprocess.Popen([*command, str(i), str(TRANSACTIONS)], env=env) for i in range(PROCESSES)]
    assert [process.wait(240) for process in started] == [0] * PROCESSES


def _check(database: Database, settings: Settings) -> None:
    checkpoints.fresh(database, settings)
    with database.reading() as session:
        entries = audit.find(session, limit=100_000)
        assert [entry.seq for entry in entries] == list(range(len(entries)))
        subjects = [entry.subject for entry in entries if entry.action == "test.done"]
        expected = [f"{n}/{i}/{j}" for n in range(PROCESSES) for i in range(TRANSACTIONS) for j in range(1 + i % 3)]
        assert sorted(subjects) == sorted(expected)
        for name in range(PROCESSES):
            mine = [subject for subject in subjects if subject.startswith(f"{name}/")]
            assert mine == [subject for subject in expected if subject.startswith(f"{name}/")], "in its own order"
        last = checkpoints.latest(session)
        assert last is not None
        assert last.size == len(entries)
        signed = [found for size in range(last.size + 1) if (found := checkpoints.note_at(session, size))]
        assert len(signed) > 2
        trusted = signing_keys.note_keys(session, settings.log_origin)
        lines = [
            json.dumps({**json.loads(audit.hashed_bytes(entry)), "leaf_hash": entry.leaf_hash}).encode()
            for entry in entries
        ]
        verify_log(lines, checkpoints=signed, trusted=trusted)
        for note in signed:
            old = notes.open_checkpoint(note, trusted)
            path = checkpoints.consistency(session, old.size, last.size)
            merkle.verify_consistency(
                old=old.size, new=last.size, old_root=old.root, new_root=last.root, path=path
            )  # fmt: skip
