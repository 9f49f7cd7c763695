"""Waits for a database that is away: an attempt took long, and a restart of the database takes moments."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service import outages
from workers.bench import Bench

T = TypeVar("T")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 5.0
log = structlog.get_logger()


def patiently(bench: Bench, act: Callable[[], T]) -> T:
    """Return what `act` returns, doing it again while the database is away or full.

    `act` is one or more transactions under the fence: one that was committed although its answer got lost raises
    LeaseLost when it is done again, and changes nothing. The last error is raised once the patience has run out
    (`outage_patience_seconds`) or the worker is asked to end.
    """
    end, wait = time.monotonic() + bench.settings.outage_patience_seconds, FIRST_WAIT_SECONDS
    while True:
        try:
            return act()
        except SQLAlchemyError as error:
            lack = outages.lacking(error)
            if lack is None or time.monotonic() > end or bench.stopping.is_set():
                raise
            log.warning("database.waited_for", code=lack.code)
        bench.stopping.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT_SECONDS)
