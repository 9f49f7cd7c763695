"""A real stack for benchmarks: PostgreSQL, Valkey, API processes behind one port, a worker, and models that it trained.

What is asked for is made here too: a generated dataset, a few tiny models of it, and one more model of another dataset
whose weights are only downloaded.
"""

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select

from service import migrate
from service.artifacts import ArtifactStore
from service.free_port import free_port
from service.lifecycle import SampleState, VersionState
from service.settings import Settings
from service.store import datasets, keys, models, samples, versions
from service.store.session import Database
from service.store.tables import AuditEntry, DeletionRequest, Job
from service.supervisor import WORKER

SAMPLES, CLASSES, NUM_MODELS, WEIGHTS_BYTES, KEYS = 20_000, 10, 4, 16 << 20, 32
WAIT_SECONDS = 300.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running stack. ``processes``: the API's and the workers' parents, by name."""

    port: int
    database: Database
    client: httpx.Client
    processes: dict[str, psutil.Process]
    keys: list[str]

    def plan(self) -> dict[str, Any]:
        """Return what the clients need to know; requests and log as they are now."""
        with self.database.reading() as session:
            newest = select(DeletionRequest.id).order_by(DeletionRequest.id.desc()).limit(100)
            requests, entries = list(session.scalars(newest)), session.scalar(select(func.count(AuditEntry.seq)))
        return {
            "port": self.port,
            "keys": self.keys,
            "dataset": "data",
            "prefix": "train/",
            "samples": SAMPLES,
            "requests": requests,
            "entries": entries,
            "weights": "/v1/models/quiet/versions/1/weights",
            "weights_bytes": WEIGHTS_BYTES,
        }

    def pause(self) -> None:
        """Stop the workers where they are; the API goes on."""
        for process in self._workers():
            process.suspend()

    def go_on(self) -> None:
        for process in self._workers():
            process.resume()

    def _workers(self) -> list[psutil.Process]:
        return [process for name, process in self.processes.items() if name.startswith("worker")]

    def done(self) -> dict[str, Any]:
        """Return how many requests and jobs there are by status, and how long the log is."""
        with self.database.reading() as session:
            requests = Counter(session.scalars(select(DeletionRequest.status)))
            erasures = Counter(session.scalars(select(Job.status).where(Job.kind == "erase")))
            errors = Counter(json.dumps(error) for error in session.scalars(select(Job.error)) if error)
            entries = session.scalar(select(func.count(AuditEntry.seq)))
        return {
            "requests": dict(requests),
            "erasure_jobs": dict(erasures),
            "audit_entries": entries,
            "job_errors": dict(errors),
        }


@contextmanager
def serve(
    folder: Path, *, processes: int = 1, workers: int = 1, num_models: int = NUM_MODELS, num_samples: int = SAMPLES
) -> Iterator[Served]:
    """Yield a stack in the folder, with trained models, one open request of all of them, and its workers paused."""
    from tests.servers import fresh_database, postgres_server, valkey_server

    with ExitStack() as stack:
        server, broker = stack.enter_context(postgres_server()), stack.enter_context(valkey_server())
        url, root = stack.enter_context(fresh_database(server)), folder / "source"
        env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
        given = {"data_dir": folder / "var", "database_url": url, "broker_url": broker, "allowed_roots": root}
        env |= {f"UNLEARN_{name.upper()}": str(value) for name, value in given.items()}
        settings = Settings(data_dir=folder / "var", database_url=url, broker_url=broker)
        migrate.upgrade(url)
        database = Database.open(settings)
        stack.callback(database.dispose)
        _write_source(root, num_samples)
        found = _fill(database, settings)
        port, log = free_port(), stack.enter_context((folder / "service.log").open("ab"))
        api = stack.enter_context(_process(["-m", "benchmarks.load_stack", str(port), str(processes)], env, log))
        bearer = {"Authorization": f"Bearer {found[0]}"}
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer, timeout=60))
        until(lambda: _is_ready(client))
        parents = [stack.enter_context(_process([*WORKER, "--loglevel", "warning"], env, log)) for _ in range(workers)]
        _train(client, root, num_models)
        apis = psutil.Process(api.pid).children() if processes > 1 else [psutil.Process(api.pid)]
        apis = [each for each in apis if "resource_tracker" not in " ".join(each.cmdline())]
        watched = {f"api_{number}": each for number, each in enumerate(apis)}
        watched |= {f"worker_{number}": psutil.Process(each.pid) for number, each in enumerate(parents)}
        served = Served(port=port, database=database, client=client, processes=watched, keys=found)
        served.pause()
        stack.callback(served.go_on)
        body = {"dataset": "data", "sample_ids": ["train/0"], "method": "finetune"}
        client.post("/v1/deletion-requests", json=body).raise_for_status()
        yield served


@contextmanager
def _process(command: list[str], env: dict[str, str], log: Any) -> Iterator[subprocess.Popen[bytes]]:
    # A worker ends when the pipe closes, however this process ends.
    env = {**env, "UNLEARN_EXIT_WITH_PARENT": "1"}
    with subprocess.Popen(
        [sys.executable, *command], env=env, stdin=subprocess.PIPE, stdout=log, stderr=log
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _write_source(root: Path, count: int) -> None:
    import numpy as np

    root.mkdir()
    draw, total = np.random.default_rng(0), count + count // 5
    images = draw.integers(0, 256, (total, 8, 8), dtype=np.uint8)
    split = np.array(["train" if i < count else "test" for i in range(total)])
    ids = np.array([f"{part}/{i}" for i, part in enumerate(split)])
    labels = (np.arange(total) % CLASSES).astype(np.int64)
    np.savez(root / "data.npz", sample_id=ids, image=images, label=labels, split=split)


def _fill(database: Database, settings: Settings) -> list[str]:
    """Write a dataset and a model whose weights are downloaded and that no request names; return API keys."""
    file = settings.data_dir / "weights"
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    file.write_bytes(secrets.token_bytes(WEIGHTS_BYTES))
    digest = ArtifactStore(settings.resolved_artifacts_url).put(file)
    with database.writing() as session:
        dataset = datasets.register(session, name="quiet", source={"source": "npz"})
        fields = {"dataset_id": dataset.id, "split": "train", "pool": "train", "state": SampleState.LIVE}
        rows = [{**fields, "sample_id": str(i), "position": i, "label": i % CLASSES} for i in range(100)]
        samples.insert_many(session, rows)
        datasets.mark_ready(session, dataset, digest="0" * 64, num_samples=100, num_classes=10, image_shape=[1, 8, 8])
        network = models.register(
            session,
            name="quiet",
            dataset=dataset,
            task="classification",
            architecture="small_cnn",
            architecture_options={"width": 8},
            recipe={"epochs": 1},
            policy={"max_accuracy_drop": 2.0},
        )
        row = versions.create(
            session,
            network,
            state=VersionState.ACTIVE,
            role="original",
            origin="trained",
            sha256=digest,
            size_bytes=WEIGHTS_BYTES,
        )
        row.content_sha256 = digest
        versions.count_training(session, row, dataset.id)
        return [keys.create(session, name=f"load {number}", scopes=["admin"])[1] for number in range(KEYS)]


def _train(client: httpx.Client, root: Path, num_models: int) -> None:
    source = {"name": "data", "source": "npz", "path": str(root / "data.npz")}
    client.post("/v1/datasets", json=source).raise_for_status()
    until(lambda: client.get("/v1/datasets/data").json()["state"] == "ready")
    for number in range(num_models):
        register(client, f"m{number}")
    asked = [client.post(f"/v1/models/m{number}/versions", json={"train": True}) for number in range(num_models)]
    for answer in asked:
        job = answer.raise_for_status().json()["job"]["id"]
        until(lambda job=job: client.get(f"/v1/jobs/{job}").json()["status"] == "published")  # type: ignore[misc]


def register(client: httpx.Client, name: str) -> None:
    """Register a tiny model of whose unlearning nothing is demanded, so that one attempt ends each job."""
    body = {
        "name": name,
        "dataset": "data",
        "architecture": "small_cnn",
        "architecture_options": {"width": 4},
        "recipe": {"epochs": 1, "batch_size": 512},
        "policy": {"gate": {"privacy": [], "bias": [], "confusion": []}},
    }
    client.post("/v1/models", json=body).raise_for_status()


def until(done: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    """Wait until ``done``. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come within {seconds:g} s")
        time.sleep(0.1)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def app() -> Any:
    """Return the application, for each of uvicorn's processes."""
    from service import logs
    from service.app import create_app

    settings = Settings()
    logs.configure(settings.log_level)
    return create_app(settings)


def _serve_api(port: int, processes: int) -> None:
    import uvicorn

    from service import server

    if processes == 1:
        server.run(app(), Settings(), host="127.0.0.1", port=port, on_drain=lambda: None, exit_seconds=0.0)
    else:
        target = "benchmarks.load_stack:app"
        uvicorn.run(target, factory=True, workers=processes, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    _serve_api(int(sys.argv[1]), int(sys.argv[2]))
