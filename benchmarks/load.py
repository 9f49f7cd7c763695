"""Mixed traffic of many clients against a real stack: PostgreSQL, Valkey, the API, and a worker that erases meanwhile.

Everything runs on this machine, clients and worker too: they take from the API what they use. Three phases: *idle*, one
client reading states before there is any load, while the worker stands still; *load*, every client sending as soon
as it is answered; *half*, the same clients paced to half of the rate that the load came to. Memory of the API and the
worker's parent is taken all along; `--minutes 10` is the long form, which tells whether it grows. PostgreSQL runs as in
the tests, without fsync.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.circumstances import circumstances, percentile
from benchmarks.load_client import MIX
from benchmarks.load_stack import Served, serve

MAX_P99_RATIO, MAX_GROWTH_MB_A_MINUTE = 5.0, 0.5
CLIENTS, THREADS, SAMPLE_SECONDS = 4, 8, 2.0
IDLE_SECONDS, HALF_SECONDS = 10.0, 30.0
FLOOR_MINUTES = 0.5


def main() -> int:
    """Print the figures as JSON; return 1 if there was an error or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long the load lasts")
    parser.add_argument("--processes", type=int, default=1, help="API processes behind one port")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"client processes of {THREADS} connections each")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        served = stack.enter_context(serve(folder, processes=given.processes))
        figures = _phases(served, given.minutes * 60, given.clients)
    missed = _missed(figures)
    about = {"api_processes": given.processes, "connections": given.clients * THREADS, "mix_percent": MIX}
    told = circumstances("uvicorn", "starlette", "sqlalchemy", "psycopg")
    print(json.dumps({**figures, **about, "targets_missed": missed, "circumstances": told}, indent=2))
    return 1 if missed else 0


def _missed(figures: dict[str, Any]) -> list[str]:
    memory = figures["memory"].values()
    checks = {
        "no errors": not any(figures[phase]["errors"] for phase in ("idle", "load", "half")),
        f"p99 of status reads under load at most {MAX_P99_RATIO:g} times that of idle": figures["status_p99_ratio"][
            "load"
        ]
        <= MAX_P99_RATIO,
        "no growth of memory": all(each["lowest_mb_a_minute_second_half"] <= MAX_GROWTH_MB_A_MINUTE for each in memory),
    }
    return [name for name, kept in checks.items() if not kept]


def _phases(served: Served, seconds: float, clients: int) -> dict[str, Any]:
    _run(served, seconds=5, clients=clients, threads=1, mix=MIX, seed=1)  # warms up every path
    idle = _run(served, seconds=IDLE_SECONDS, clients=1, threads=1, mix={"status": 1}, seed=2, pace=0.02)
    served.go_on()
    memory = _Memory(served.processes)
    with memory:
        load = _run(served, seconds=seconds, clients=clients, threads=THREADS, mix=MIX, seed=3)
    rate = load["requests_per_second"] / 2
    pace = clients * THREADS / rate
    half = _run(served, seconds=HALF_SECONDS, clients=clients, threads=THREADS, mix=MIX, seed=4, pace=pace)
    before = idle["by_kind"]["status"]["p99_ms"]
    ratios = {
        name: round(phase["by_kind"]["status"]["p99_ms"] / before, 2)
        for name, phase in (("load", load), ("half", half))
    }
    return {
        "idle": idle,
        "load": load,
        "half": half,
        "status_p99_ratio": ratios,
        "memory": memory.figures(),
        "work": served.done(),
    }


def _run(
    served: Served, *, seconds: float, clients: int, threads: int, mix: dict[str, int], seed: int, pace: float = 0.0
) -> dict[str, Any]:
    """Have the clients ask for so long and return what came of it. ``pace``: seconds between requests of one thread."""
    plan = {**served.plan(), "seconds": seconds, "threads": threads, "mix": mix, "pace": pace}
    command = [sys.executable, "-m", "benchmarks.load_client"]
    # The clients' share of the processor is bounded by what they do: none computes anything of the answers.
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(clients)
    ]
    outputs: list[Any] = [None] * clients

    def ask(number: int) -> None:
        text, _ = running[number].communicate(json.dumps({**plan, "seed": 100 * seed + number}), timeout=seconds + 120)
        outputs[number] = json.loads(text)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    try:
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
    finally:
        for process in running:
            process.kill()
    return _summary([each for each in outputs if each is not None], seconds, lost=outputs.count(None))


def _summary(outputs: list[dict[str, Any]], seconds: float, *, lost: int) -> dict[str, Any]:
    times: dict[str, list[float]] = defaultdict(list)
    for output in outputs:
        for kind, found in output["times"].items():
            times[kind] += found
    return {
        "seconds": seconds,
        "requests_per_second": round(sum(map(len, times.values())) / seconds, 1),
        "errors": sum(output["errors"] for output in outputs) + lost,
        "faults": [fault for output in outputs for fault in output["faults"]][:5],
        "client_cpu_seconds": round(sum(output["cpu_seconds"] for output in outputs), 1),
        "by_kind": {
            kind: {
                "requests_per_second": round(len(found) / seconds, 1),
                "p50_ms": round(percentile(found, 0.5), 1),
                "p99_ms": round(percentile(found, 0.99), 1),
            }
            for kind, found in sorted(times.items())
        },
    }


class _Memory:
    """Takes the RSS of processes every so often; the slopes are those of lines through the second half.

    One line is through all that was taken, one through the lowest of every `FLOOR_MINUTES`: the settling of a thousand
    requests takes tens of megabytes for a moment, and where such moments fall tilts the first line. What they leave
    behind is in the second.
    """

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes, self._over = processes, threading.Event()
        self._taken: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
        self._thread = threading.Thread(target=self._take, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _take(self) -> None:
        started = time.monotonic()
        while True:
            for name, process in self._processes.items():
                self._taken[name].append(((time.monotonic() - started) / 60, process.memory_info().rss / 1e6))
            if self._over.wait(SAMPLE_SECONDS):
                return

    def figures(self) -> dict[str, dict[str, float]]:
        """Return megabytes before, after and at most, and the slopes in megabytes a minute."""
        return {
            name: {
                "before_mb": round(taken[0][1], 1),
                "after_mb": round(taken[-1][1], 1),
                "most_mb": round(max(mb for _, mb in taken), 1),
                "mb_a_minute_second_half": round(_slope(taken[len(taken) // 2 :]), 3),
                "lowest_mb_a_minute_second_half": round(_slope(_lowest(taken[len(taken) // 2 :])), 3),
            }
            for name, taken in self._taken.items()
        }


def _lowest(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return of every `FLOOR_MINUTES` the point of least memory."""
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        groups[int((point[0] - points[0][0]) / FLOOR_MINUTES)].append(point)
    return [min(group, key=lambda point: point[1]) for group in groups.values()]


def _slope(points: list[tuple[float, float]]) -> float:
    mean_x, mean_y = (sum(point[i] for point in points) / len(points) for i in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
