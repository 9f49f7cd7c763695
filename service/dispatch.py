"""The only sender of messages on the HTTP side: by task name, a job id only, after the commit."""

from collections.abc import Iterable

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from service import faults
from service.broker import TASK, celery_config
from service.faults import Step
from service.settings import Settings

log = structlog.get_logger()


class Bell:
    """Rings for jobs that were committed. A lost ring costs time alone: the sweeper rings again."""

    def __init__(self, settings: Settings) -> None:
        self._app = Celery("unlearn-bell")
        self._app.conf.update(celery_config(settings))

    def ring(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            try:
                self._app.send_task(TASK, [job_id], retry=False)
            except (OperationalError, OSError) as error:
                log.warning("bell.not_rung", job_id=job_id, error=type(error).__name__)
        faults.reach(Step.BELL_RUNG)

    def close(self) -> None:
        self._app.close()
