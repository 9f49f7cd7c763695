"""The only sender of messages on the HTTP side: by task name, a job id only, after the commit."""

import threading
from collections.abc import Iterable

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from service import faults
from service.broker import TASK, celery_config
from service.faults import Step
from service.settings import Settings

# After a ring that failed no request waits for the broker; one thread tries it so often.
REST_SECONDS = 5.0
# So many jobs are rung for late, the newest: a worker that was rung for takes up older ones when it is done.
MOST_OWED = 100
log = structlog.get_logger()


class Bell:
    """Rings for jobs that were committed. A lost ring costs time alone: the sweeper rings again.

    A broker that is silent would have each request wait for its timeout. So after one the bell rests: rings are owed
    meanwhile, and a thread of its own makes up for them all, one message for each job, as soon as the broker answers.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("unlearn-bell")
        self._app.conf.update(celery_config(settings))
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._owed: dict[str, None] = {}  # the newest last; the bell rests as long as there is one

    def ring(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if not self._rests(job_id) and (error := self._refusal(job_id)):
                self._rest(job_id, error)
        faults.reach(Step.BELL_RUNG)

    def close(self) -> None:
        self._closed.set()
        self._app.close()

    def _rests(self, job_id: str) -> bool:
        """Leave the ring to the thread if there is one."""
        with self._lock:
            if not self._owed:
                return False
            self._owe(job_id)
            return True

    def _rest(self, job_id: str, error: str) -> None:
        with self._lock:
            begun = not self._owed
            self._owe(job_id)
        if begun:
            log.warning("bell.not_rung", job_id=job_id, error=error)
            threading.Thread(target=self._ring_again, daemon=True, name="bell").start()

    def _owe(self, job_id: str) -> None:
        self._owed[job_id] = None
        if len(self._owed) > MOST_OWED:
            del self._owed[next(iter(self._owed))]

    def _ring_again(self) -> None:
        try:
            while not self._closed.wait(REST_SECONDS):
                if self._made_up():
                    log.info("bell.rung_again")
                    return
        except Exception:
            with self._lock:
                self._owed.clear()  # a thread that broke must not leave the bell at rest for good
            raise

    def _made_up(self) -> bool:
        """Ring for what is owed and what comes meanwhile; end the rest, and say so, unless the broker refused one."""
        with self._lock:
            owed: str | None = next(iter(self._owed))
        while owed is not None:
            if self._closed.is_set() or self._refusal(owed):
                return False
            with self._lock:
                self._owed.pop(owed, None)  # it may have given way to newer ones
                owed = next(iter(self._owed), None)
        return True

    def _refusal(self, job_id: str) -> str | None:
        """Send the message; return the name of the error where the broker did not take it."""
        try:
            self._app.send_task(TASK, [job_id], retry=False)
        except (OperationalError, OSError) as error:
            return type(error).__name__
        return None
