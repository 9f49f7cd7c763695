"""Runs the HTTP server, and ends it in good order when the process is asked to.

Asked to end (SIGTERM, SIGINT), the process first announces it: `/readyz` says `draining`, answers close their
connections, streams of events end, duties stop. Only after the time a balancer needs to notice does it stop accepting;
then what is in flight has a bounded time to end. Asked a second time, it stops accepting at once.
"""

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from service import heap
from service.connections import options
from service.deps import Parts
from service.garbage import long_lived
from service.settings import Settings

# What the end takes beside the requests: duties and webhook deliveries that are at something, connections to close.
LAST_SECONDS = 12.0
TICK_SECONDS = 1.0
# How long a thread may go on while another waits for the interpreter. One request takes it back some twenty times, so
# that with the default of 5 ms two busy threads would have a read of 7 ms take 30.
TURN_SECONDS = 0.0005
# The library's count of ticks at which it does what is due every second: its date header.
_EVERY_SECOND = 0
log = structlog.get_logger()


class Server(uvicorn.Server):
    """Uvicorn's server with a drain before the stop. It does not raise the signal again once it has ended."""

    def __init__(self, config: uvicorn.Config, *, parts: Parts, on_drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._parts, self._on_drain = parts, on_drain
        self._signals = 0
        self._stop_at: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the library's signature
        # Counted and told alone, which take no lock: one may be held by the very code that the signal interrupts.
        self._signals += 1
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def main_loop(self) -> None:
        """Look after the server once a second, and at once on a signal.

        The library's loop looks ten times a second, which is most of what an idle process would do.
        """
        self._loop = asyncio.get_running_loop()
        long_lived()
        while not await self.on_tick(_EVERY_SECOND):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._rest())
            self._woken.clear()

    def _rest(self) -> float:
        """Return for how many seconds nothing is due: the end of the drain is, to the moment."""
        left = TICK_SECONDS if self._stop_at is None else self._stop_at - asyncio.get_running_loop().time()
        return min(TICK_SECONDS, max(left, 0.0))

    async def on_tick(self, counter: int) -> bool:
        if self._signals and self._stop_at is None:
            self._stop_at = asyncio.get_running_loop().time() + self._parts.settings.drain_seconds
            log.info("server.draining", connections=len(self.server_state.connections))
            self._parts.draining.set()
            self._on_drain()
        if self._stop_at is not None:
            over = asyncio.get_running_loop().time() >= self._stop_at
            self.should_exit = self.should_exit or over or self._signals > 1
        return await super().on_tick(counter)


def run(
    app: FastAPI, settings: Settings, *, host: str, port: int, on_drain: Callable[[], None], exit_seconds: float
) -> None:
    """Serve until asked to end. A process that has not ended ``exit_seconds`` after its bound is ended the hard way."""
    heap.keep_little()
    sys.setswitchinterval(TURN_SECONDS)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
        **options(settings),
    )
    bound = settings.drain_seconds + settings.shutdown_seconds + exit_seconds

    def drain() -> None:
        threading.Thread(target=_end_after, args=(bound,), daemon=True, name="last-resort").start()
        on_drain()

    try:
        server = Server(config, parts=app.state.parts, on_drain=drain)
        server.run()
    except KeyboardInterrupt:  # before the server had its own handler, or after
        return
    if not server.started:
        raise SystemExit(3)


def _end_after(seconds: float) -> None:
    """End the process though a thread hangs: what that had not committed is rolled back."""
    time.sleep(seconds)
    log.error("server.killed", seconds=seconds)
    os._exit(1)
