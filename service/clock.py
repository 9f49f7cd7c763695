"""Watches the due dates of open requests. What is announced of them, and when: docs/deadlines.md."""

import structlog

from service.deps import Parts
from service.duties import Duty
from service.store import deadline_marks

EVERY_SECONDS = 10.0
log = structlog.get_logger()


def run(parts: Parts) -> None:
    """Announce every mark that has gone by, each request in a transaction of its own."""
    with parts.database.reading() as session:
        found = deadline_marks.due_to_be_announced(session)
    for request_id in found:
        if parts.draining.is_set():
            return
        try:
            with parts.database.writing() as session:
                deadline_marks.announce(session, request_id)
        except Exception as error:  # noqa: BLE001 - the one longest due comes first each time: it must hold no other up
            log.error("clock.failed", request_id=request_id, error=type(error).__name__)


DUTY = Duty(name="clock", every_seconds=EVERY_SECONDS, run=run)
