"""How long taking in a deletion request of 100 ids takes, beside a bare FastAPI route that does one INSERT.

Both routes stand in one uvicorn process on one database engine, and get the same bodies over one kept-alive
connection each, in turn: the ratio is that of one run. No worker runs. The store holds 60,000 samples and a model
trained on them. The bare route checks no key, resolves nothing, and records nothing. On a busy machine every round trip
to PostgreSQL waits for its turn, so the server's own CPU time (Linux) stands beside the wall clock.
`sqlite-normal` has SQLite sync no commit, as the service does not run: what is between it and `sqlite` is the disk's.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.circumstances import circumstances, percentile
from service import migrate
from service.free_port import free_port
from service.lifecycle import SampleState, VersionState
from service.settings import Settings
from service.store import datasets, keys, models, samples, versions
from service.store.session import Database

MAX_RATIO, READY_SECONDS = 4.0, 120.0
IDS, SAMPLES, CLASSES, WARM_UP = 100, 60_000, 10, 20
SQLITE_NORMAL = "sqlite-normal"
DATABASES = ("sqlite", SQLITE_NORMAL, "postgresql")
_NORMAL = "BENCHMARK_SQLITE_NORMAL"
ROUTES = {"intake": "/v1/deletion-requests", "bare": "/bare"}


class Bare(BaseModel):
    dataset: str
    sample_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class Server:
    port: int
    pid: int

    def cpu_milliseconds(self) -> float:
        """Return the CPU time its threads have had so far; 0 where the kernel does not say."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e6


def main() -> int:
    """Print the figures as JSON; return 1 if the ratio of medians is above the target anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--database", choices=DATABASES, action="append")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
        return 0
    found = {name: _measure(name, given.requests) for name in given.database or DATABASES}
    missed = [name for name, figures in found.items() if figures["ratio_p50"] > MAX_RATIO]
    print(json.dumps({**found, "targets_missed": missed, "circumstances": circumstances()}, indent=2))
    return 1 if missed else 0


def _measure(database: str, count: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder, database_url=stack.enter_context(_database_url(database)))
        key = _fill(settings)
        server = stack.enter_context(_server(settings, normal=database == SQLITE_NORMAL))
        milliseconds, cpu = _time(server, key, count)
    figures: dict[str, Any] = {
        name: {
            "p50_ms": round(percentile(times, 0.5), 2),
            "p99_ms": round(percentile(times, 0.99), 2),
            "server_cpu_p50_ms": round(percentile(cpu[name], 0.5), 2),
        }
        for name, times in milliseconds.items()
    }
    ratios = {f"ratio_{p}": round(figures["intake"][f"{p}_ms"] / figures["bare"][f"{p}_ms"], 2) for p in ("p50", "p99")}
    return {**figures, **ratios, "requests": count, "ids_per_request": IDS, "samples": SAMPLES}


@contextmanager
def _database_url(database: str) -> Iterator[str]:
    if database != "postgresql":
        yield ""
        return
    from tests.servers import fresh_database, postgres_server

    with postgres_server() as server, fresh_database(server) as url:
        yield url


def _fill(settings: Settings) -> str:
    """Write what indexing and training would have left, and return an API key."""
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    with database.writing() as session:
        dataset = datasets.register(session, name="data", source={"source": "npz"})
        rows = [_sample(dataset.id, position) for position in range(SAMPLES)]
        for start in range(0, SAMPLES, samples.INSERT_CHUNK):
            samples.insert_many(session, rows[start : start + samples.INSERT_CHUNK])
        datasets.mark_ready(
            session, dataset, digest="0" * 64, num_samples=SAMPLES, num_classes=CLASSES, image_shape=[1, 8, 8]
        )
        network = models.register(
            session,
            name="m",
            dataset=dataset,
            task="classification",
            architecture="small_cnn",
            architecture_options={"width": 24},
            recipe={"epochs": 1},
            policy={"max_accuracy_drop": 2.0, "stop_serving": "on_success"},
        )
        version = versions.create(
            session,
            network,
            state=VersionState.ACTIVE,
            role="original",
            origin="trained",
            sha256="1" * 64,
            size_bytes=1,
        )
        versions.count_training(session, version, dataset.id)
        key = keys.create(session, name="benchmark", scopes=["admin"])[1]
    database.dispose()
    return key


def _sample(dataset_id: str, position: int) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "sample_id": f"train/{position}",
        "position": position,
        "split": "train",
        "pool": "train",
        "label": position % CLASSES,
        "state": SampleState.LIVE,
    }


@contextmanager
def _server(settings: Settings, *, normal: bool) -> Iterator[Server]:
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {"UNLEARN_DATA_DIR": str(settings.data_dir), "UNLEARN_DATABASE_URL": settings.database_url}
    env |= {_NORMAL: "1"} if normal else {}
    with subprocess.Popen([sys.executable, "-m", "benchmarks.intake", "--serve", str(port)], env=env) as process:
        try:
            _until_ready(port)
            yield Server(port=port, pid=process.pid)
        finally:
            process.terminate()


def _until_ready(port: int) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"the API was not ready within {READY_SECONDS:g} s")


def _serve(port: int) -> None:
    """Serve the service's app and, in the same process, the bare one."""
    import uvicorn
    from fastapi import FastAPI
    from sqlalchemy import Column, MetaData, Table, Text, event, insert
    from starlette.types import Receive, Scope, Send

    from service.app import create_app
    from service.store.types import new_id

    service, bare = create_app(Settings()), FastAPI()
    if _NORMAL in os.environ:
        service.state.parts.database.dispose()
        event.listen(service.state.parts.database.engine, "connect", _sync_no_commit)
    # The writing engine of the service: on SQLite it opens every transaction with BEGIN IMMEDIATE, as intake does.
    engine = service.state.parts.database.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
    table = Table("bare", MetaData(), Column("id", Text, primary_key=True), Column("sample_ids", Text))
    table.create(engine)

    @bare.post("/bare", status_code=202)
    def create(body: Bare) -> dict[str, str]:
        row = {"id": new_id("bare"), "sample_ids": json.dumps(body.sample_ids)}
        with engine.begin() as connection:
            connection.execute(insert(table), row)
        return {"id": row["id"]}

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        await (bare if scope.get("path") == "/bare" else service)(scope, receive, send)

    uvicorn.run(both, host="127.0.0.1", port=port, log_level="warning")


def _sync_no_commit(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


def _time(server: Server, key: str, count: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return each route's milliseconds per request, first byte sent to last byte read, and the server's CPU's."""
    connections = {name: http.client.HTTPConnection("127.0.0.1", server.port) for name in ROUTES}
    found: dict[str, list[float]] = {name: [] for name in ROUTES}
    cpu: dict[str, list[float]] = {name: [] for name in ROUTES}
    for number in range(WARM_UP + count):
        # A stride spreads the ids over classes and pages, as those of real people are.
        ids = [f"train/{(number * IDS + i) * 7 % SAMPLES}" for i in range(IDS)]
        body = json.dumps({"dataset": "data", "sample_ids": ids}).encode()
        order = sorted(ROUTES, reverse=bool(number % 2))
        for name in order:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            headers["Idempotency-Key"] = f"{name}-{number}"
            used, started = server.cpu_milliseconds(), time.perf_counter()
            connections[name].request("POST", ROUTES[name], body, headers)
            answer = connections[name].getresponse()
            text = answer.read()
            milliseconds = 1000 * (time.perf_counter() - started)
            if answer.status != 202:
                raise RuntimeError(f"{name} answered {answer.status}: {text[:500]!r}")
            if number >= WARM_UP:
                found[name].append(milliseconds)
                cpu[name].append(server.cpu_milliseconds() - used)
    return found, cpu


if __name__ == "__main__":
    raise SystemExit(main())
