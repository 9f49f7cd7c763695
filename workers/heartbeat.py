"""Keeps the lease of a running attempt alive and writes its progress, at most twice a second."""

import contextvars
import threading
import time
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.store import clock_skew, job_phase, jobs
from service.store.jobs import Claim, LeaseLost
from workers.bench import Bench
from workers.phases import EVALUATE

log = structlog.get_logger()
PROGRESS_SECONDS = 0.5


class Heartbeat:
    """A thread beside the attempt. ``lost`` is set once the lease is gone: the child must then be stopped."""

    def __init__(self, bench: Bench, claim: Claim) -> None:
        self._bench, self._claim = bench, claim
        self._done = threading.Event()
        self._progress: tuple[str, int, int] | None = None
        # In the attempt's context, so that the ids bound there are on this thread's log lines too.
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._beat,), daemon=True)
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        # The child ends with ChildLost when it is stopped; what really happened is that the lease went. Without an
        # error the result was published under the fence, and a last beat merely found the job finished.
        if error is not None and self.lost.is_set():
            raise LeaseLost(self._claim.job_id) from error

    def progress(self, phase: str, done: int, total: int) -> None:
        """Keep what the child says, to be written at the next beat; that evaluation begins is written at once."""
        self._progress = (phase, done, total)
        if phase == EVALUATE:
            self._begin_evaluation()

    def _begin_evaluation(self) -> None:
        try:
            with self._bench.database.writing() as session:
                job_phase.begin_evaluation(session, self._claim)
        except LeaseLost:
            self.lost.set()
        except SQLAlchemyError as error:
            # Shown late or never, but the attempt itself is none the worse for it.
            log.warning("evaluating.not_noted", error=type(error).__name__)

    def _beat(self) -> None:
        lease = self._bench.settings.lease_seconds
        tick = min(PROGRESS_SECONDS, lease / 6)
        written: tuple[str, int, int] | None = None
        beaten = time.monotonic()
        while not self._done.wait(tick):
            progress = self._progress
            if progress == written and time.monotonic() - beaten < lease / 3:
                continue
            try:
                with self._bench.database.writing() as session:
                    # By the database's clock: a lease by one that was set back would have run out for all others.
                    seconds = lease + clock_skew.seconds(session)
                    jobs.heartbeat(session, self._claim, lease_seconds=seconds, progress=progress)
            except LeaseLost:
                self.lost.set()
                return
            except SQLAlchemyError as error:
                # The database may be back before the lease ends; the fence protects the rest.
                log.warning("heartbeat.missed", error=type(error).__name__)
                continue
            written, beaten = progress, time.monotonic()
