"""Downloading weights beside a bare Starlette `FileResponse` of the same file, in one process, kept-alive connections.

The service looks the key up, checks the version, writes who fetched what into the log and the recipients, and sends
digests; the bare route sends the file. In turn, medians; a ratio of 1 is as fast. SQLite or PostgreSQL without fsync.
"""

import argparse
import hashlib
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.circumstances import circumstances
from benchmarks.intake import _database_url, _until_ready
from service import migrate
from service.artifacts import ArtifactStore
from service.free_port import free_port
from service.lifecycle import VersionState
from service.settings import Settings
from service.store import datasets, keys, models, versions
from service.store.session import Database

MIN_RATIO, ROUNDS, WARM_UP = 0.9, 12, 2
MEGABYTES = (64, 1024)
BUFFER = 1 << 20
BARE = "/bare/"


def main() -> int:
    """Print the figures as JSON; return 1 if the service sends slower than nine tenths of the bare route."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=MEGABYTES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
        return 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(data_dir=folder, database_url=stack.enter_context(_database_url(given.database)))
        key, files = _fill(settings, given.megabytes)
        port = free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
        env |= {"UNLEARN_DATA_DIR": str(folder), "UNLEARN_DATABASE_URL": settings.database_url}
        command = [sys.executable, "-m", "benchmarks.weights", "--serve", str(port)]
        server = stack.enter_context(subprocess.Popen(command, env=env))
        stack.callback(server.terminate)
        _until_ready(port)
        found = {f"{size} MB": _measure(port, key, f"m{size}", files[size], given.rounds) for size in given.megabytes}
    missed = [size for size, figures in found.items() if figures["ratio"] < MIN_RATIO]
    told = {"rounds": given.rounds, "database": given.database, "targets_missed": missed}
    print(json.dumps({**found, **told, "circumstances": circumstances("starlette", "uvicorn")}, indent=2))
    return 1 if missed else 0


def _fill(settings: Settings, sizes: list[int]) -> tuple[str, dict[int, str]]:
    migrate.upgrade(settings.resolved_database_url)
    database, store, files = Database.open(settings), ArtifactStore(settings.resolved_artifacts_url), dict[int, str]()
    for size in sizes:
        path = settings.data_dir / "file"
        with path.open("wb") as file:
            for _ in range(size):
                file.write(secrets.token_bytes(1 << 20))
        files[size] = store.put(path)
        path.unlink()
    with database.writing() as session:
        dataset = datasets.register(session, name="data", source={"source": "npz"})
        datasets.mark_ready(session, dataset, digest="0" * 64, num_samples=1, num_classes=2, image_shape=[1, 8, 8])
        for size, digest in files.items():
            network = models.register(
                session,
                name=f"m{size}",
                dataset=dataset,
                task="classification",
                architecture="small_cnn",
                architecture_options={"width": 8},
                recipe=None,
                policy={"max_accuracy_drop": 2.0},
            )
            versions.create(
                session,
                network,
                state=VersionState.ACTIVE,
                role="original",
                origin="uploaded",
                sha256=digest,
                size_bytes=size << 20,
            )
        key = keys.create(session, name="benchmark", scopes=["admin"])[1]
    database.dispose()
    return key, files


def _serve(port: int) -> None:
    """Serve the service's app and, in the same process, the bare route."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send

    from service.app import create_app

    service = create_app(Settings())
    store = service.state.parts.artifacts

    async def send_file(request: Request) -> FileResponse:
        return FileResponse(store.local_path(request.path_params["digest"]))

    bare = Starlette(routes=[Route(BARE + "{digest}", send_file)])

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        await (bare if scope.get("path", "").startswith(BARE) else service)(scope, receive, send)

    uvicorn.run(both, host="127.0.0.1", port=port, log_level="warning")


def _measure(port: int, key: str, model: str, digest: str, rounds: int) -> dict[str, Any]:
    paths = {"service": f"/v1/models/{model}/versions/1/weights", "bare": BARE + digest}
    connections = {name: http.client.HTTPConnection("127.0.0.1", port, timeout=120) for name in paths}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(WARM_UP + rounds):
        for name in sorted(paths, reverse=bool(number % 2)):
            check = number == 0
            took = _download(connections[name], paths[name], key, digest if check else None)
            if number >= WARM_UP:
                seconds[name].append(took)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        **{f"{name}_ms": round(1000 * found, 1) for name, found in medians.items()},
        "ratio": round(medians["bare"] / medians["service"], 2),
    }


def _download(connection: http.client.HTTPConnection, path: str, key: str, digest: str | None) -> float:
    """Return the seconds until the last byte was read. ``digest``: what the bytes are checked against."""
    buffer, hashed = bytearray(BUFFER), hashlib.sha256()
    started = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    while count := answer.readinto(buffer):
        if digest is not None:
            hashed.update(memoryview(buffer)[:count])
    took = time.perf_counter() - started
    if answer.status != 200 or (digest is not None and hashed.hexdigest() != digest):
        raise RuntimeError(f"{path} answered {answer.status}, or with other bytes")
    return took


if __name__ == "__main__":
    raise SystemExit(main())
