"""Keeps the worker of `unlearn serve` running, and has it end with the service."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

# Workers ask nothing of each other, the store is what they share; gossip trips over itself when a broker goes away.
_ALONE = ("--without-gossip", "--without-mingle")
WORKER = ("-m", "celery", "-A", "workers.app", "worker", "--pool", "threads", "--concurrency", "1", *_ALONE)
# A worker that keeps ending is started again after longer and longer pauses, until one has lived for a while.
LEAST_PAUSE_SECONDS, MOST_PAUSE_SECONDS, STEADY_SECONDS = 0.5, 30.0, 60.0


class Supervisor:
    """Keeps one worker process running beside the API, and ends it with the API however that ends."""

    def __init__(self, *, stop_seconds: float) -> None:
        self._stop, self._stop_seconds = threading.Event(), stop_seconds
        self._starting = threading.Lock()
        self._process: subprocess.Popen[Any] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> None:
        """Have the worker end, once, and no other be started; wait for nothing."""
        with self._starting:
            if self._stop.is_set():
                return
            self._stop.set()
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.ask()
        if self._process is not None and self._process.poll() is None:
            try:
                self._process.wait(self._stop_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._thread.join(5)

    def _watch(self) -> None:
        pause = LEAST_PAUSE_SECONDS
        while (process := self._start_one()) is not None:
            started = time.monotonic()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
            if time.monotonic() - started > STEADY_SECONDS:
                pause = LEAST_PAUSE_SECONDS  # it worked: what ended it is no fault of its start
            self._stop.wait(pause)
            pause = min(pause * 2, MOST_PAUSE_SECONDS)

    def _start_one(self) -> "subprocess.Popen[Any] | None":
        # Under the lock, so that no worker is started behind the back of `stop`.
        with self._starting:
            if self._stop.is_set():
                return None
            # The worker watches the pipe: it closes when this process is gone, even by SIGKILL.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *WORKER, "--loglevel", "warning"],
                stdin=subprocess.PIPE,
                env={**os.environ, "UNLEARN_EXIT_WITH_PARENT": "1"},
            )
            return self._process
