"""What the API process sees to by itself, every so often: one thread each, one process at a time by a lease."""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import IntegrityError

from service.deps import Parts
from service.store import duty_leases

LEASE_TURNS, LEAST_LEASE_SECONDS = 3, 15.0
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Duty:
    """``run`` is called every so many seconds; what it raises is logged, and it is called again.

    ``everywhere``: in each process, whoever holds the lease, and once more when the process ends.
    """

    name: str
    every_seconds: float
    run: Callable[[Parts], None]
    everywhere: bool = False


class Duties:
    """Runs duties while the process lives."""

    def __init__(self, parts: Parts, duties: Sequence[Duty]) -> None:
        self._parts, self._stop = parts, threading.Event()
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._leased = any(not duty.everywhere for duty in duties)
        self._threads = [
            threading.Thread(target=self._loop, args=(duty,), daemon=True, name=duty.name) for duty in duties
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, each after what it is at, and let another process take over."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        if self._leased:
            with self._parts.database.writing() as session:
                duty_leases.give_back(session, self._owner)

    def _loop(self, duty: Duty) -> None:
        while not self._stop.wait(duty.every_seconds):
            self._turn(duty)
        if duty.everywhere:
            self._turn(duty)

    def _turn(self, duty: Duty) -> None:
        try:
            if duty.everywhere or self._mine(duty):
                duty.run(self._parts)
        except Exception as error:  # noqa: BLE001 - a thread's boundary: a duty that ends is never seen to again
            log.warning("duty.failed", duty=duty.name, error=type(error).__name__)

    def _mine(self, duty: Duty) -> bool:
        seconds = max(LEASE_TURNS * duty.every_seconds, LEAST_LEASE_SECONDS)
        try:
            with self._parts.database.writing() as session:
                return duty_leases.take(session, duty.name, owner=self._owner, seconds=seconds)
        except IntegrityError:  # two processes made the first lease in one instant
            return False
