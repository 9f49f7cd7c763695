"""Leases, fences and the audit log on both databases, under concurrency."""

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import select, text, update
from sqlalchemy.exc import DatabaseError

from service import migrate
from service.lifecycle import JobKind, JobStatus
from service.settings import Settings
from service.store import audit, datasets, jobs, models
from service.store.jobs import LeaseLost
from service.store.session import Database
from service.store.tables import AuditEntry, Job
from service.store.types import now

OWNER = "test"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_database_url")
    settings = Settings(data_dir=tmp_path_factory.mktemp("leases"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Database.open(settings)
    yield found
    found.dispose()


@pytest.fixture
def queued(database: Database, request: pytest.FixtureRequest) -> list[str]:
    """Two jobs of one model, and nothing else to claim."""
    name = f"n{abs(hash(request.node.nodeid))}"
    with database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
        dataset = datasets.register(session, name=name, source={"source": "npz"})
        model = models.register(
            session,
            name=name,
            dataset=dataset,
            task="classification",
            architecture="small_cnn",
            architecture_options={},
            recipe=None,
            policy={},
        )
        return [jobs.create(session, JobKind.TRAIN, dataset_id=dataset.id, model_id=model.id).id for _ in range(2)]


def test_many_claimers_at_once_get_one_job_of_a_model(database: Database, queued: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda i: jobs.claim_next(database, owner=f"w{i}", lease_seconds=30), range(8)))
    assert [claim.job_id for claim in claims if claim] == queued[:1]


def test_an_old_fence_can_change_nothing(database: Database, queued: list[str]) -> None:
    old = jobs.claim_next(database, owner=OWNER, lease_seconds=30)
    assert old is not None
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == old.job_id).values(lease_until=now() - timedelta(seconds=1)))
    with database.writing() as session:
        (job_id,) = jobs.expired(session)
        job = jobs.take_expired(session, job_id)
        assert job is not None
        jobs.give_back(session, job, max_attempts=5, reason="lease_expired")
    for act in (
        lambda session: jobs.heartbeat(session, old, lease_seconds=30, progress=None),
        lambda session: jobs.hold_lease(session, old),
    ):
        with pytest.raises(LeaseLost), database.writing() as session:
            act(session)
    new = jobs.claim_next(database, owner=OWNER, lease_seconds=30)
    assert new is not None
    assert (new.job_id, new.fence) == (old.job_id, old.fence + 1)
    with pytest.raises(LeaseLost), database.writing() as session:
        jobs.hold_lease(session, old)
    with database.writing() as session:
        assert jobs.hold_lease(session, new).attempts == 2


def test_attempts_are_capped(database: Database, queued: list[str]) -> None:
    for _ in range(2):
        claim = jobs.claim_next(database, owner=OWNER, lease_seconds=30)
        assert claim is not None
        with database.writing() as session:
            jobs.give_back(session, jobs.hold_lease(session, claim), max_attempts=2, reason="lost")
    with database.reading() as session:
        job = session.get_one(Job, queued[0])
        assert (job.status, job.attempts) == (JobStatus.POISONED, 2)
        assert job.error is not None
        assert job.error["code"] == "poisoned"


def test_concurrent_appends_leave_no_gap_and_no_fork(database: Database) -> None:
    """Writers and readers at once; "database is locked" would surface here as an error."""
    errors: list[BaseException] = []

    def append(worker: int) -> None:
        try:
            for i in range(40):
                with database.writing() as session:
                    audit.record(session, "test.appended", subject=f"{worker}/{i}", payload={"i": i})
                with database.reading() as session:
                    audit.find(session, limit=5)
        except BaseException as error:  # noqa: BLE001 - a thread's failure must reach the test
            errors.append(error)

    threads = [threading.Thread(target=append, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with database.reading() as session:
        rows = list(session.scalars(select(AuditEntry).order_by(AuditEntry.seq)))
    assert [row.seq for row in rows] == list(range(len(rows)))
    assert sum(row.action == "test.appended" for row in rows) == 320
    for row in rows:
        payload = json.loads(row.payload)
        entry = {f: getattr(row, f) for f in ("action", "actor", "seq", "subject", "time")} | {"payload": payload}
        # Written again without the library: keys sorted, no spaces; these payloads hold no floats.
        plain = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert hashlib.sha256(b"\x00" + plain).hexdigest() == row.leaf_hash


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_entries SET actor = 'x'", "DELETE FROM audit_entries", "TRUNCATE audit_entries CASCADE"]
)
def test_the_log_refuses_to_be_changed(database: Database, statement: str) -> None:
    if statement.startswith("TRUNCATE") and database.engine.dialect.name == "sqlite":
        statement = "DELETE FROM audit_entries WHERE seq >= 0"
    with database.writing() as session:
        audit.record(session, "test.appended", subject="s", payload={})
    with pytest.raises(DatabaseError, match="append-only"), database.writing() as session:
        session.execute(text(statement))


def test_a_rolled_back_transaction_leaves_no_entry(database: Database) -> None:
    def fail() -> None:
        with database.writing() as session:
            audit.record(session, "test.never", subject="s", payload={})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    with database.reading() as session:
        assert audit.find(session, actions=["test.never"]) == []


def test_the_migrations_build_the_tables_the_code_declares(database: Database) -> None:
    """Alembic's check raises when the declared tables differ from the migrated ones."""
    command.check(migrate.config(database.engine.url.render_as_string(hide_password=False)))


def test_the_api_loads_neither_torch_nor_numpy() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'numpy', 'matplotlib', 'workers'}"
    script = f"import sys, service.app, service.cli; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert found.stdout.strip() == "set()"
