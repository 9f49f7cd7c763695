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
log = structlog.get_logger()


class Bell:
    """Rings for jobs that were committed. A lost ring costs time alone: the sweeper rings again.

    A broker that is silent would have each request wait for its timeout. So after one the bell rests: a thread of its
    own rings for the newest job until that is heard, and rings of requests meanwhile are left to it.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("unlearn-bell")
        self._app.conf.update(celery_config(settings))
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._owed: str | None = None

    def ring(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if not self._rests(job_id) and not self._rung(job_id):
                self._rest(job_id)
        faults.reach(Step.BELL_RUNG)

    def close(self) -> None:
        self._closed.set()
        self._app.close()

    def _rests(self, job_id: str) -> bool:
        """Leave the ring to the thread if there is one; whoever hears of the newest job takes all others too."""
        with self._lock:
            if self._owed is None:
                return False
            self._owed = job_id
            return True

    def _rest(self, job_id: str) -> None:
        with self._lock:
            begun, self._owed = self._owed is None, job_id
        if begun:
            threading.Thread(target=self._ring_again, daemon=True, name="bell").start()

    def _ring_again(self) -> None:
        try:
            while not self._closed.wait(REST_SECONDS) and not self._heard():
                pass
        except Exception:
            with self._lock:
                self._owed = None  # a thread that broke must not leave the bell at rest for good
            raise

    def _heard(self) -> bool:
        """Ring for the newest job, and for one that came meanwhile; end the rest if the broker heard."""
        while (owed := self._owed) is not None and self._rung(owed):
            with self._lock:
                if self._owed == owed:
                    self._owed = None
                    return True
        return False

    def _rung(self, job_id: str) -> bool:
        try:
            self._app.send_task(TASK, [job_id], retry=False)
        except (OperationalError, OSError) as error:
            log.warning("bell.not_rung", job_id=job_id, error=type(error).__name__)
            return False
        return True
