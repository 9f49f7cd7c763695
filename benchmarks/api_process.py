"""What the API process costs: no torch or numpy loaded, memory after start and under requests, seconds to ready.

Starts `unlearn api` on an empty SQLite database as an operator would. Does not measure intake; that is intake.py.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.circumstances import circumstances
from service import migrate
from service.free_port import free_port
from service.settings import Settings
from service.store import keys
from service.store.session import Database

MAX_MEGABYTES, MAX_READY_SECONDS = 150.0, 3.0
REQUESTS = 300
_HEAVY = ("torch", "torchvision", "numpy", "scipy", "sklearn", "safetensors")
_PROBE = f"import json, sys, service.app; print(json.dumps([n for n in {_HEAVY!r} if n in sys.modules]))"


def main() -> int:
    """Print the figures as JSON; return 1 if a target is missed."""
    with tempfile.TemporaryDirectory() as folder:
        figures = {"heavy_modules": _heavy_modules(), **_process(Path(folder))}
    missed = _missed(figures)
    print(json.dumps({**figures, "targets_missed": missed, "circumstances": circumstances()}, indent=2))
    return 1 if missed else 0


def _missed(figures: dict[str, Any]) -> list[str]:
    checks = {
        "no torch or numpy in the API process": not figures["heavy_modules"],
        f"resident below {MAX_MEGABYTES:g} MB": figures["resident_mb_after_requests"] < MAX_MEGABYTES,
        f"ready in under {MAX_READY_SECONDS:g} s": figures["ready_seconds"] < MAX_READY_SECONDS,
    }
    return [name for name, kept in checks.items() if not kept]


def _heavy_modules() -> list[str]:
    done = subprocess.run([sys.executable, "-c", _PROBE], check=True, capture_output=True, text=True)
    found: list[str] = json.loads(done.stdout)
    return found


def _process(folder: Path) -> dict[str, Any]:
    settings = Settings(data_dir=folder)
    migrate.upgrade(settings.resolved_database_url)
    database = Database.open(settings)
    with database.writing() as session:
        key = keys.create(session, name="benchmark", scopes=["admin"])[1]
    database.dispose()
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    command = [sys.executable, "-m", "service.cli", "api", "--port", str(port), "--data-dir", str(folder)]
    started = time.perf_counter()
    with subprocess.Popen(command, env=env) as api:
        try:
            bearer = {"Authorization": f"Bearer {key}"}
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=bearer) as client:
                ready = _seconds_until_ready(client, started)
                after_start = _resident_megabytes(api.pid)
                _ask(client)
                after_requests = _resident_megabytes(api.pid)
        finally:
            api.terminate()
    return {
        "ready_seconds": round(ready, 2),
        "resident_mb_after_start": round(after_start, 1),
        "resident_mb_after_requests": round(after_requests, 1),
        "requests": REQUESTS,
    }


def _seconds_until_ready(client: httpx.Client, started: float) -> float:
    while time.perf_counter() - started < 60:
        try:
            if client.get("/readyz").status_code == 200:
                return time.perf_counter() - started
        except httpx.TransportError:
            time.sleep(0.02)
    raise TimeoutError("the API was not ready within 60 s")


def _ask(client: httpx.Client) -> None:
    """Touch what a client touches: documents, the catalogue, the schema, and writes that are audited."""
    paths = ("/v1/methods", "/v1/metrics", "/v1/models", "/v1/datasets", "/v1/audit/entries", "/openapi.json")
    for number in range(REQUESTS - 1):
        client.get(paths[number % len(paths)]).raise_for_status()
    client.post("/v1/datasets", json={"name": "digits", "source": "sklearn:digits"}).raise_for_status()


def _resident_megabytes(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
