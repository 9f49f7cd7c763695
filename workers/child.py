"""The child process: the only one that imports torch. Reads orders from stdin, answers on its first stdout.

One line of JSON per message. Asked to stop, a training that can be kept ends with its epoch, other work with its next
report of progress. When the pipe closes, because the parent ended in whatever way, it exits at once.
"""

import ctypes
import gc
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from service import faults, outages
from service.errors import StorageFull
from workers.line import Line, Stopped

PROGRESS_SECONDS = 0.2
# The child writes nowhere else.
_FULL_DISK = (
    "The disk of the worker's data folder (UNLEARN_DATA_DIR) has no room left for decoded samples or results; nothing "
    "was kept. Free or add space there; the job goes on by itself."
)


def main() -> None:
    """Serve orders until stdin closes."""
    # One core stays free for the heartbeat and the API: threads that wait for a busy core make small steps crawl.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))
    # The child has no settings; its parent refused this one where it must not be set.
    if folder := os.environ.get("UNLEARN_FAULT_POINTS"):
        faults.arm(Path(folder))
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Whatever a library prints must not end up between the messages.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    parent = ParentLine(channel)
    threading.Thread(target=_read, args=(orders, parent), daemon=True).start()
    while True:
        _answer(orders.get(), parent)


class ParentLine(Line):
    """The line through the child's pipes."""

    def __init__(self, channel: IO[str]) -> None:
        self.channel, self.stop = channel, threading.Event()

    def tell(self, message: Mapping[str, Any]) -> None:
        self.channel.write(json.dumps(message, allow_nan=False) + "\n")

    def stopping(self) -> bool:
        return self.stop.is_set()


def _read(orders: "queue.Queue[dict[str, Any]]", parent: ParentLine) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if order["kind"] == "stop":
            parent.stop.set()
        else:
            orders.put(order)
    os._exit(0)


def _answer(order: dict[str, Any], parent: ParentLine) -> None:
    parent.training = False
    try:
        line = json.dumps({"type": "done", "result": _execute(order, parent)}, allow_nan=False)
    except Stopped:
        line = json.dumps({"type": "stopped"})
    except Exception as error:  # noqa: BLE001 - the task boundary: every outcome must reach the parent
        line = json.dumps({"type": "failed", **describe(error)}, allow_nan=False)
    parent.channel.write(line + "\n")
    _let_go()


def _let_go() -> None:
    """Give back the memory of the order that is over: nothing of one order's samples and weights outlives it."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # What the C library keeps for later would else stay in this process for as long as it is warm.
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)


def _execute(order: dict[str, Any], parent: ParentLine) -> dict[str, Any]:
    report = _reporter(parent)
    # Imported here, after the pipe is watched, and only what the order needs: torch takes seconds to load.
    if order["kind"] == "index":
        from workers.indexing import index

        return index(order, report)
    from workers.work import execute

    return execute(order, report, parent)


def _reporter(parent: ParentLine) -> Callable[[str, int, int], None]:
    last, last_phase = 0.0, ""

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last, last_phase
        if parent.stopping() and not parent.training:
            raise Stopped
        # A new phase is always told: the job's status follows it.
        if time.monotonic() - last < PROGRESS_SECONDS and done != total and phase == last_phase:
            return
        last, last_phase = time.monotonic(), phase
        parent.tell({"type": "progress", "phase": phase, "done": done, "total": total})

    return report


def describe(error: Exception) -> dict[str, Any]:
    """Return code and detail of a failure. An unforeseen one shows where it arose but not its message, which
    may quote data."""
    from workers.data.source import DataError

    if isinstance(error, DataError):
        return {"code": error.code, "detail": str(error)}
    from workers.checkpoints import BadCheckpoint
    from workers.micro_batches import OutOfMemoryError
    from workers.training import TrainingError
    from workers.unlearning.interface import InvalidSplitsError, UnlearningError, UtilityLostError

    if isinstance(error, UtilityLostError):
        return {"code": "utility_guard", "detail": str(error), "history": list(error.history)}
    known: dict[type[Exception], str] = {
        UnlearningError: "unlearning_failed",
        InvalidSplitsError: "invalid_splits",
        TrainingError: "training_failed",
        BadCheckpoint: "bad_checkpoint",
    }
    for kind, code in known.items():
        if isinstance(error, kind):
            return {"code": code, "detail": str(error)}
    if isinstance(error, OutOfMemoryError):
        return {"code": "out_of_memory", "detail": str(error)}
    if isinstance(error, OSError) and (lack := outages.lacking(error)) is not None:
        return {"code": lack.code, "detail": _FULL_DISK if isinstance(lack, StorageFull) else outages.of_a_job(lack)}
    frames = [f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
    return {"code": "internal_error", "detail": f"{type(error).__name__} at {' > '.join(frames[-4:])}"}


if __name__ == "__main__":
    main()
