"""Whether the worker of this machine is well, for a container's health check: one look into the database."""

import socket

from sqlalchemy.exc import SQLAlchemyError

from service import outages
from service.settings import Settings
from service.store import schema, workers
from service.store.session import Database
from service.store.workers import WorkerState

WELL = frozenset({WorkerState.IDLE, WorkerState.BUSY})


def check(settings: Settings, host: str | None = None) -> tuple[bool, str]:
    """Return whether each worker that this host has is idle or busy, and a sentence. Raises SQLAlchemyError.

    A worker that was restarted leaves the row of its forerunner, which is gone: it does not count beside a live one.
    """
    host = host or socket.gethostname()
    database = Database.open(settings)
    try:
        with database.reading() as session:
            found = [
                state
                for row, state in workers.states(session, sweep_seconds=settings.sweep_seconds)
                if row.id.rpartition(":")[0] == host
            ]
    finally:
        database.dispose()
    living = [state for state in found if state != WorkerState.GONE]
    if not living:
        return False, f"no worker of {host} gives a sign of life"
    deaf = sum(state not in WELL for state in living)
    if deaf:
        return False, f"{deaf} of {len(living)} workers of {host} leave work lying: restart them"
    return True, ", ".join(sorted(living))


def why_not(settings: Settings, error: SQLAlchemyError) -> str:
    """Return what kept `check` from an answer: a schema that does not fit, a damaged file, a database that is away."""
    database = Database.open(settings)
    try:
        unfit = schema.unfit(database)
    except SQLAlchemyError:
        unfit = None
    finally:
        database.dispose()
    if unfit is not None:
        return unfit
    damage = outages.damaged(error)
    return damage.detail if damage is not None else f"the database does not answer ({type(error).__name__})"
