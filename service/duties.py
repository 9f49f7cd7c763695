"""What the API process sees to by itself, every so often: one thread each, one process at a time by a lease."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from service.deps import Parts
from service.store import duty_leases
from service.store.stillness import Watch

LEASE_TURNS, LEAST_LEASE_SECONDS = 3, 15.0
# While nothing happens, nothing is looked for more often than this.
REST_SECONDS = 15.0
# For all of them together, so that the process ends in time.
STOP_SECONDS = 5.0
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Duty:
    """``run`` is called every so many seconds; what it raises is logged, and it is called again.

    Where it does one thing after another it looks at ``Parts.draining`` in between.

    ``everywhere``: in each process, whoever holds the lease, and once more when the process ends.
    ``rests``: what it looks for comes with an audit entry, or may be seen to `REST_SECONDS` late.
    """

    name: str
    every_seconds: float
    run: Callable[[Parts], None]
    everywhere: bool = False
    rests: bool = True


class Duties:
    """Runs duties until the process drains."""

    def __init__(self, parts: Parts, duties: Sequence[Duty], *, idle: Callable[[], bool] = lambda: False) -> None:
        """``idle``: whether nothing is to be done at the moment."""
        self._parts, self._stop, self._duties, self._idle = parts, parts.draining, duties, idle
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._renew_at: dict[str, float] = {}
        self._threads = [
            threading.Thread(target=self._loop, args=(duty,), daemon=True, name=duty.name) for duty in duties
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for the threads to end, each after what it is at; those of this process alone run once more."""
        self._stop.set()
        end = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for duty in self._duties:
            if duty.everywhere:
                self._turn(duty)

    def _loop(self, duty: Duty) -> None:
        watch, rest_until = Watch(self._parts.database), 0.0
        while not self._stop.wait(duty.every_seconds):
            if duty.rests and not self._may_be_news(watch) and time.monotonic() < rest_until:
                continue
            went_well = self._turn(duty)
            rest_until = time.monotonic() + REST_SECONDS if went_well else 0.0
        if not duty.everywhere:
            self._give_back(duty)

    def _give_back(self, duty: Duty) -> None:
        """Let another process take over at once."""
        try:
            with self._parts.database.writing() as session:
                duty_leases.give_back(session, self._owner, duty.name)
        except Exception as error:  # noqa: BLE001 - a thread's boundary: the lease runs out by itself
            log.warning("duty.not_given_back", duty=duty.name, error=type(error).__name__)

    def _may_be_news(self, watch: Watch) -> bool:
        """Say so before each turn: what is committed while the duty looks is then seen at the next."""
        try:
            return watch.changed()
        except SQLAlchemyError:
            return True  # the duty itself says what is wrong

    def _turn(self, duty: Duty) -> bool:
        """See to the duty if it is this process's; say whether that went well."""
        try:
            if not self._idle() and (duty.everywhere or self._mine(duty)):
                duty.run(self._parts)
        except Exception as error:  # noqa: BLE001 - a thread's boundary: a duty that ends is never seen to again
            log.warning("duty.failed", duty=duty.name, error=type(error).__name__)
            return False
        return True

    def _mine(self, duty: Duty) -> bool:
        """Take or renew the lease; one that has half of its time left needs neither."""
        asked = time.monotonic()
        if asked < self._renew_at.get(duty.name, 0.0):
            return True
        seconds = max(LEASE_TURNS * duty.every_seconds, LEAST_LEASE_SECONDS)
        try:
            with self._parts.database.writing() as session:
                taken = duty_leases.take(session, duty.name, owner=self._owner, seconds=seconds)
        except IntegrityError:  # two processes made the first lease in one instant
            return False
        self._renew_at[duty.name] = asked + seconds / 2 if taken else 0.0
        return taken
