"""The warm child: spawned, killable, time-limited. Torch and CUDA live there; this side imports neither.

A forked child could not use CUDA, and a worker that did the work itself would be deaf to its heartbeat.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

Progress = Callable[[str, int, int], None]
_TICK = 0.2
_STOP_SECONDS = 5.0


class ChildFailed(Exception):
    """The child said that the work cannot be done; ``error`` has code and detail."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error.get("detail", ""))
        self.error = error


class ChildLost(Exception):
    """The child ended, hung or was stopped before it answered."""


class Runner:
    """One child process, started when first needed and kept warm between orders."""

    def __init__(self, *, time_limit_seconds: float, idle_seconds: float) -> None:
        self._time_limit, self._idle = time_limit_seconds, idle_seconds
        self._child: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._lock = threading.Lock()
        self._used = time.monotonic()

    def run(self, order: dict[str, Any], *, progress: Progress, stop: Callable[[], bool]) -> dict[str, Any]:
        """Have the child do one order. Raises ChildFailed or ChildLost; after ChildLost the child is gone."""
        with self._lock:
            self._send(order)
            try:
                return self._await(progress, stop, deadline=time.monotonic() + self._time_limit)
            except ChildLost:
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
        child = self._child
        if child is None or child.stdin is None:
            raise ChildLost("the child could not be started")
        try:
            child.stdin.write(json.dumps(order) + "\n")
            child.stdin.flush()
        except OSError as error:
            self._kill()
            raise ChildLost("the child ended before it took the order") from error

    def _start(self) -> None:
        self._answers = queue.Queue()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "workers.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=_listen, args=(self._child.stdout, self._answers), daemon=True).start()

    def _await(self, progress: Progress, stop: Callable[[], bool], *, deadline: float) -> dict[str, Any]:
        while True:
            if stop():
                raise ChildLost("stopped")
            if time.monotonic() > deadline:
                raise ChildLost(f"no answer within {self._time_limit:.0f} s")
            try:
                message = self._answers.get(timeout=_TICK)
            except queue.Empty:
                continue
            if message is None:
                code = self._child.wait() if self._child else None
                raise ChildLost(f"the child ended with exit code {code}")
            match message["type"]:
                case "progress":
                    progress(message["phase"], message["done"], message["total"])
                case "done":
                    result: dict[str, Any] = message["result"]
                    return result
                case _:
                    raise ChildFailed({key: value for key, value in message.items() if key != "type"})

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        if child.stdin is not None:
            child.stdin.close()
        try:
            child.wait(_STOP_SECONDS if child.poll() is not None else 0.1)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


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
