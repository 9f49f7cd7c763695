"""The warm child: spawned, killable, time-limited. Torch and CUDA live there; this side imports neither.

A forked child could not use CUDA, and a worker that did the work itself would be deaf to its heartbeat.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import structlog

log = structlog.get_logger()
Progress = Callable[[str, int, int], None]
_TICK = 0.2
TIME_LIMIT_EXCEEDED = "time_limit_exceeded"


class ChildFailed(Exception):
    """The child said that the work cannot be done; ``error`` has code and detail."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("detail", ""))
        self.error = error


class ChildLost(Exception):
    """The child ended, hung or was stopped before it answered."""


class TimeLimitExceeded(ChildFailed):
    """The child was at it, hung or stood still for longer than it may; it is gone."""

    def __init__(self, seconds: float) -> None:
        detail = (
            f"The work was not done within {seconds:.0f} seconds and was ended. Raise UNLEARN_JOB_TIME_LIMIT_SECONDS "
            "and retry the job, or ask for another method."
        )
        super().__init__({"code": TIME_LIMIT_EXCEEDED, "detail": detail})


@dataclass(frozen=True, kw_only=True)
class Drain:
    """When the child is asked to stop at a point from which its work can go on, and how long it is given for that."""

    asked: Callable[[], bool]
    seconds: float


Told = Callable[[dict[str, Any]], None]
"""Takes what the child says of its checkpoints, in the thread that waits for its answer."""


class Runner:
    """One child process, started when first needed and kept warm between orders."""

    def __init__(self, *, time_limit_seconds: float, idle_seconds: float, niceness: int = 0) -> None:
        self._time_limit, self._idle, self._niceness = time_limit_seconds, idle_seconds, niceness
        self._child: subprocess.Popen[str] | None = None
        self._telling: threading.Thread | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._used = time.monotonic()

    def run(
        self,
        order: dict[str, Any],
        *,
        progress: Progress,
        stop: Callable[[], bool],
        drain: Drain | None = None,
        told: Told | None = None,
    ) -> dict[str, Any]:
        """Have the child do one order. Raises ChildFailed or ChildLost; after ChildLost the child is gone.

        ``stop``: end the child at once; ``drain``: ask it to come to an end first.
        """
        with self._lock:
            self._send(order)
            if drain is not None:
                stop = self._draining(drain, stop)
            try:
                return self._await(progress, stop, told, deadline=time.monotonic() + self._time_limit)
            except (ChildLost, TimeLimitExceeded):
                self._kill()
                raise
            finally:
                self._used = time.monotonic()

    def release_idle(self) -> None:
        """End a child that has had nothing to do for long, to give its memory back."""
        if time.monotonic() - self._used < self._idle or not self._lock.acquire(blocking=False):
            return
        try:
            self._kill()
        finally:
            self._lock.release()

    def close(self) -> None:
        """End the child, busy or not."""
        child = self._child
        if child is not None:
            child.kill()

    def _send(self, order: dict[str, Any]) -> None:
        if self._child is None or self._child.poll() is not None:
            self._start()
        self._tell(order)

    def _tell(self, message: dict[str, Any]) -> None:
        """Write to the child from a thread of its own, in turn.

        A stopped child takes nothing in, and a long order does not fit into the pipe: whoever waited for that would
        wait for ever. A child that has gone closes its own pipe too, which is what is then seen of it.
        """
        child = self._child
        if child is None or child.stdin is None:
            raise ChildLost("the child could not be started")
        told = (child.stdin, json.dumps(message) + "\n", self._telling)
        self._telling = threading.Thread(target=_tell, args=told, daemon=True)
        self._telling.start()

    def _draining(self, drain: Drain, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Return a ``stop`` that first asks the child to come to an end, once, and then waits so long."""
        until: float | None = None

        def look() -> bool:
            nonlocal until
            if until is None and drain.asked():
                until = time.monotonic() + drain.seconds
                self._tell({"kind": "stop"})
                log.info("child.asked_to_stop", seconds=drain.seconds)
            return stop() or (until is not None and time.monotonic() > until)

        return look

    def _start(self) -> None:
        self._answers, self._telling = queue.Queue(), None
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with suppress(ProcessLookupError):
            # Its threads are all yet to come. Whoever reads a state beside it is answered before the work goes on.
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, self._child.pid, min(own + self._niceness, 19))
        threading.Thread(target=_listen, args=(self._child.stdout, self._answers), daemon=True).start()

    def _await(
        self, progress: Progress, stop: Callable[[], bool], told: Told | None, *, deadline: float
    ) -> dict[str, Any]:
        while True:
            if stop():
                raise ChildLost("stopped")
            if time.monotonic() > deadline:
                raise TimeLimitExceeded(self._time_limit)
            try:
                message = self._answers.get(timeout=_TICK)
            except queue.Empty:
                continue
            if message is None:
                code = self._child.wait() if self._child else None
                raise ChildLost(f"the child ended with exit code {code}")
            result = _taken(message, progress, told)
            if result is not None:
                return result

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        # SIGKILL ends a stopped process too, and whoever is still telling it something; then the pipe can be closed.
        child.kill()
        child.wait()
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()


def _tell(pipe: IO[str], line: str, before: threading.Thread | None) -> None:
    if before is not None:
        before.join()
    with suppress(OSError, ValueError):
        pipe.write(line)
        pipe.flush()


def _taken(message: dict[str, Any], progress: Progress, told: Told | None) -> dict[str, Any] | None:
    """Pass on what the child says on its way; return its result once it has one. Raises ChildFailed, ChildLost."""
    match message["type"]:
        case "progress":
            progress(message["phase"], message["done"], message["total"])
        case "checkpoint" | "checkpoint_refused" | "checkpoint_not_written" | "resumed":
            if told is not None:
                told(message)
        case "stopped":
            raise ChildLost("stopped where it was asked to")
        case "done":
            result: dict[str, Any] = message["result"]
            return result
        case _:
            raise ChildFailed({key: value for key, value in message.items() if key != "type"})
    return None


def _listen(pipe: IO[str] | None, answers: "queue.Queue[dict[str, Any] | None]") -> None:
    try:
        if pipe is not None:
            with pipe:
                for line in pipe:
                    answers.put(json.loads(line))
    except ValueError:
        pass  # a child killed in mid-sentence: what it was saying is lost with it
    finally:
        answers.put(None)
