"""What the embedded service costs while nobody asks anything: share of a core, memory, and when the child goes.

Starts `unlearn serve` as an operator would, has its worker train one tiny network so that the child is warm, waits
until the child was released for having nothing to do, and then measures the API and the worker's parent over a quiet
minute. Memory is told as RSS (shared pages counted in each process), PSS (shared out) and USS (private alone).
"""

import argparse
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
from service.free_port import free_port

MAX_PERCENT, MAX_MEGABYTES = 1.0, 300.0
CHILD_IDLE_SECONDS, WAIT_SECONDS = 10.0, 180.0
_MODEL = {
    "name": "m",
    "dataset": "digits",
    "architecture": "small_cnn",
    "architecture_options": {"width": 8},
    "recipe": {"epochs": 1},
}


def main() -> int:
    """Print the figures as JSON; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the quiet is measured")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder), given.seconds)
    missed = _missed(figures)
    found = {**figures, "targets_missed": missed, "circumstances": circumstances("uvicorn", "celery", "sqlalchemy")}
    print(json.dumps(found, indent=2))
    return 1 if missed else 0


def _missed(figures: dict[str, Any]) -> list[str]:
    checks = {
        f"below {MAX_PERCENT:g} % of a core": figures["percent_of_a_core"]["both"] < MAX_PERCENT,
        f"RSS of both below {MAX_MEGABYTES:g} MB": figures["megabytes"]["both"]["rss"] < MAX_MEGABYTES,
        "child released": figures["child"]["released_after_seconds"] is not None,
    }
    return [name for name, kept in checks.items() if not kept]


def _measure(folder: Path, seconds: float) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {"UNLEARN_DATA_DIR": str(folder), "UNLEARN_CHILD_IDLE_SECONDS": str(CHILD_IDLE_SECONDS)}
    base = [sys.executable, "-m", "service.cli"]
    key = subprocess.run(
        [*base, "keys", "create", "benchmark", "--scope", "admin"], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()
    port = free_port()
    with (
        subprocess.Popen([*base, "serve", "--port", str(port)], env=env) as api,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}) as client,
    ):
        try:
            return _watch(psutil.Process(api.pid), client, seconds)
        finally:
            api.terminate()
            api.wait(60)


def _watch(api: psutil.Process, client: httpx.Client, seconds: float) -> dict[str, Any]:
    _until(lambda: _is_ready(client))
    _train(client)
    trained, worker = time.monotonic(), _only(api.children())
    warm = _only(worker.children())
    child: dict[str, Any] = {"warm_megabytes": _megabytes(warm)}
    _until(lambda: not warm.is_running() or warm.status() == psutil.STATUS_ZOMBIE)
    child["released_after_seconds"] = round(time.monotonic() - trained, 1)
    child["idle_seconds_set"] = CHILD_IDLE_SECONDS
    processes = {"api": api, "worker_parent": worker}
    before = {name: _cpu_seconds(process) for name, process in processes.items()}
    time.sleep(seconds)
    percent = {
        name: round(100 * (_cpu_seconds(process) - before[name]) / seconds, 2) for name, process in processes.items()
    }
    memory = {name: _megabytes(process) for name, process in processes.items()}
    both = {kind: round(sum(each[kind] for each in memory.values()), 1) for kind in ("rss", "pss", "uss")}
    return {
        "percent_of_a_core": {**percent, "both": round(sum(percent.values()), 2)},
        "megabytes": {**memory, "both": both},
        "threads": {name: process.num_threads() for name, process in processes.items()},
        "child": child,
        "seconds": seconds,
    }


def _train(client: httpx.Client) -> None:
    client.post("/v1/datasets", json={"name": "digits", "source": "sklearn:digits"}).raise_for_status()
    _until(lambda: client.get("/v1/datasets/digits").json()["state"] == "ready")
    client.post("/v1/models", json=_MODEL).raise_for_status()
    job = client.post("/v1/models/m/versions", json={"train": True}).raise_for_status().json()["job"]["id"]
    _until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "published")


def _until(done: Any) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come within {WAIT_SECONDS:g} s")
        time.sleep(0.2)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def _only(processes: list[psutil.Process]) -> psutil.Process:
    (process,) = processes
    return process


def _cpu_seconds(process: psutil.Process) -> float:
    """Return what its threads have had so far, to the nanosecond: counted in ticks of 10 ms, short turns go missing."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _megabytes(process: psutil.Process) -> dict[str, float]:
    info = process.memory_full_info()
    return {kind: round(getattr(info, kind) / 1e6, 1) for kind in ("rss", "pss", "uss")}


if __name__ == "__main__":
    raise SystemExit(main())
