"""A full disk and a full SQLite file, as the kernel and SQLite themselves refuse: work waits, and goes on with room."""

import resource
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event, func, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry
from starlette.testclient import TestClient

from service.app import create_app
from service.lifecycle import JobKind, JobStatus
from service.settings import Settings
from service.store import audit, datasets, jobs, keys, models
from service.store.session import Database
from service.store.tables import AuditEntry, Dataset, DeletionRequest, Job, Version
from service.store.types import now
from tests import factories
from tests.migrated import copy_sqlite
from workers import outcomes, tasks
from workers.bench import Bench
from workers.runner import Runner

LIMIT = 1 << 16
ROOM = 1 << 20


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(data_dir=tmp_path, allowed_roots=str(tmp_path), outage_patience_seconds=300)
    copy_sqlite(found.resolved_database_url)
    return found


@pytest.fixture
def bench(settings: Settings) -> Iterator[Bench]:
    found = Bench.open(settings)
    yield found
    found.database.dispose()


class Cramped(Runner):
    """A child to which the kernel gives no file larger than so many bytes."""

    def _start(self) -> None:
        super()._start()
        if self._child is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.prlimit(self._child.pid, resource.RLIMIT_FSIZE, (LIMIT, hard))


class FullFile:
    """What holds a database's file to its present size, on each connection, until there is room again."""

    def __init__(self, database: Database) -> None:
        self._opened: list[Any] = []
        self._most = ROOM
        event.listen(database.engine, "connect", self._hold)
        database.engine.dispose()  # those that are open already know of no bound

    def _hold(self, raw: Any, _: ConnectionPoolEntry) -> None:
        self._opened.append(raw)
        raw.execute(f"PRAGMA max_page_count = {self._most}")

    def fill(self) -> None:
        self._bound(1)  # SQLite makes of it the size that there is

    def free(self) -> None:
        self._bound(ROOM)

    def _bound(self, pages: int) -> None:
        self._most = pages
        for raw in self._opened:
            with suppress(sqlite3.ProgrammingError):  # closed meanwhile
                raw.execute(f"PRAGMA max_page_count = {pages}")


def _npz(path: Path) -> None:
    count = 1000
    splits = np.array(["train"] * (count - 200) + ["validation"] * 100 + ["test"] * 100)
    images = np.random.default_rng(0).integers(0, 255, (count, 12, 12), dtype=np.uint8)
    ids = np.array([f"s{i}" for i in range(count)])
    np.savez_compressed(path, sample_id=ids, image=images, label=np.arange(count) % 2, split=splits)
    assert images.nbytes > 2 * LIMIT


def _run(bench: Bench, kind: type[Runner]) -> int:
    """Do every job there is, in a child of this kind that then ends."""
    runner = kind(time_limit_seconds=300, idle_seconds=0)
    try:
        return tasks.run_all(replace(bench, runner=runner))
    finally:
        runner.release_idle()


def _job(bench: Bench, job_id: str) -> Job:
    with bench.database.reading() as session:
        return session.get_one(Job, job_id)


def test_a_worker_whose_disk_is_full_while_it_decodes_waits_says_so_and_goes_on_with_room(
    bench: Bench, tmp_path: Path
) -> None:
    _npz(tmp_path / "x.npz")
    with bench.database.writing() as session:
        dataset = datasets.register(session, name="d", source={"source": "npz", "path": str(tmp_path / "x.npz")})
        job_id = jobs.create(session, JobKind.INDEX, dataset_id=dataset.id).id
    assert _run(bench, Cramped) == 1, "and it is not claimed again at once"
    job = _job(bench, job_id)
    assert job.error is not None
    assert (job.status, job.attempts, job.error["code"]) == (JobStatus.QUEUED, 1, "storage_full")
    assert "UNLEARN_DATA_DIR" in job.error["detail"]
    assert "Free or add space" in job.error["detail"]
    assert job.not_before is not None
    assert not (tmp_path / "cache" / dataset.id).exists()
    assert list((tmp_path / "tmp").iterdir()) == [], "what was begun takes no room any more"

    with bench.database.writing() as session:
        session.execute(update(Job).values(not_before=now()))
    assert _run(bench, Runner) == 1
    assert _job(bench, job_id).status == JobStatus.COMPLETED
    with bench.database.reading() as session:
        assert session.get_one(Dataset, dataset.id).state == "ready"
    assert (tmp_path / "cache" / dataset.id / "images.npy").stat().st_size > LIMIT


def test_a_full_sqlite_file_refuses_requests_serves_reads_and_takes_them_once_there_is_room(bench: Bench) -> None:
    factories.dataset(bench, train=400)
    factories.model(bench)
    factories.version(bench)
    with bench.database.writing() as session:
        _, key = keys.create(session, name="admin", scopes=["admin"])
    app = create_app(bench.settings)
    file = FullFile(app.state.parts.database)
    with TestClient(app, headers={"Authorization": f"Bearer {key}"}) as client:
        file.fill()
        taken, refused = _until_full(client)
        assert (refused.status_code, refused.json()["code"]) == (507, "storage_full")
        assert "free or add space" in refused.json()["detail"]
        assert client.get("/v1/deletion-requests").status_code == 200
        assert client.get("/readyz").status_code == 200, "what can be done is done"
        assert _requests(bench) == taken
        file.free()
        again = client.post(
            "/v1/deletion-requests",
            json=_body(taken),
            headers={"Idempotency-Key": f"key-{taken}"},
        )
        assert again.status_code == 202, again.text
        assert _requests(bench) == taken + 1
    with bench.database.reading() as session:
        numbers = list(session.scalars(select(AuditEntry.seq).order_by(AuditEntry.seq)))
    assert numbers == list(range(len(numbers))), "no entry without its change, and no gap"


def _body(number: int) -> dict[str, Any]:
    return {"dataset": "d", "sample_ids": [f"d-train-{number}"], "method": "finetune"}


def _until_full(client: TestClient) -> tuple[int, Any]:
    """Send requests until one is refused; return how many were taken before it. Pages have some room left."""
    for number in range(300):
        answer = client.post("/v1/deletion-requests", json=_body(number), headers={"Idempotency-Key": f"key-{number}"})
        if answer.status_code != 202:
            return number, answer
    raise AssertionError("the file was never full")


def _requests(bench: Bench) -> int:
    with bench.database.reading() as session:
        return session.scalar(select(func.count()).select_from(DeletionRequest)) or 0


class Filling(Runner):
    """A child that answers at once with weights, when the file is full; room comes at the third refusal."""

    def __init__(self, file: FullFile) -> None:
        super().__init__(time_limit_seconds=60, idle_seconds=60)
        self.file, self.asked = file, 0

    def run(self, order: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.asked += 1
        (Path(order["out"]) / "weights.safetensors").write_bytes(b"weights")
        self.file.fill()
        return {"info": {"seconds": 1.0, "told": "x" * 100_000}}


def _training(bench: Bench) -> str:
    factories.dataset(bench)
    factories.model(bench)
    with bench.database.writing() as session:
        model = models.by_name(session, "m")
        return jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id).id


def _consume(bench: Bench) -> None:
    """Use up what room the log's pages have left, so that the next entry needs another page."""
    for size in (3000, 300, 30, 3):
        with pytest.raises(OperationalError, match="full"):  # noqa: PT012 - one of them is the last
            for _ in range(5_000):
                with bench.database.writing() as session:
                    audit.record(session, "test.filling", subject="test", payload={"x": "x" * size})


def test_a_result_waits_for_room_in_a_full_sqlite_file_and_is_published_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, file = _training(bench), FullFile(bench.database)
    runner, refused = Filling(file), 0
    record = outcomes.record

    def recorded(*given: Any, **named: Any) -> None:
        nonlocal refused
        if refused == 0:
            _consume(bench)
        refused += 1
        if refused == 3:
            file.free()
        record(*given, **named)

    monkeypatch.setattr(outcomes, "record", recorded)
    assert tasks.run_all(replace(bench, runner=runner)) == 1
    assert (_job(bench, job_id).status, runner.asked) == (JobStatus.PUBLISHED, 1)
    assert refused == 3, "twice there was no room"
    with bench.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Version)) == 1
