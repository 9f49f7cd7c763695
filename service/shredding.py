"""Keys at the end of their retention, and the files they were in: what the API process and the CLI see to."""

import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service import outages
from service.deps import Parts
from service.settings import Settings
from service.store import request_keys, traces
from service.store.session import Database

log = structlog.get_logger()


def wrap_keys(parts: Parts) -> None:
    """Wrap what an older version stored unwrapped; one look where there is nothing."""
    total = 0
    with parts.database.reading() as session:
        if not request_keys.any_unwrapped(session):
            return
    while True:
        with parts.database.writing() as session:
            count = request_keys.wrap_stored(session, parts.secrets.wrapping)
        if not count:
            break
        total += count
    if total:
        log.info("request_keys.wrapped", count=total)


def wrap_keys_if_there(parts: Parts) -> None:
    """Wrap what there is to wrap; a database that is away is waited for, and `shred_expired` sees to it then."""
    try:
        wrap_keys(parts)
    except SQLAlchemyError as error:
        if outages.lacking(error) is None:
            raise
        log.warning("database.away")


def shred_expired(parts: Parts) -> None:
    """Shred every key that is past its date, after wrapping those that are still stored as they are."""
    wrap_keys(parts)
    count = shred_over(parts.database, parts.settings, stop=parts.draining)
    if count:
        log.info("request_keys.shredded", count=count)


def shred_over(database: Database, settings: Settings, *, stop: threading.Event | None = None) -> int:
    """Give keys of requests that are over their date, shred those past it, and return how many."""
    with database.reading() as session:
        if not request_keys.waiting(session):
            return 0
    with database.writing() as session:
        request_keys.set_dates(session, days=settings.request_key_days)
    with database.reading() as session:
        found = request_keys.expired(session)
    for done, request_id in enumerate(found):
        if stop is not None and stop.is_set():
            return done
        with database.writing() as session:
            request_keys.shred(session, request_id, reason="retention_over")
    return len(found)


def scrub_files(parts: Parts) -> None:
    """Rid the database's files of what was erased a while ago."""
    if traces.scrub(parts.database, older_than_seconds=parts.settings.scrub_seconds):
        log.info("database.scrubbed")
