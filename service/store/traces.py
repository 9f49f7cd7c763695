"""Ridding the database's own files of what was erased: the journal and freed pages still hold old bytes.

SQLite: `secure_delete` overwrites what is deleted, but not copies that a page split left behind, nor the journal's
older pages; so the file is rewritten and the journal cut to nothing. PostgreSQL: dead rows are vacuumed, and the tables
of keys and of what people wrote are written anew. Neither reaches backups, replicas, archived journals or blocks that
the disk has remapped.
"""

import time
from datetime import timedelta

from sqlalchemy import Connection, delete, func, insert, select
from sqlalchemy.orm import Session

from service.store.session import Database
from service.store.tables import FileTrace, table_of
from service.store.types import now

_BUSY_TRIES, _BUSY_PAUSE, _BUSY_MILLISECONDS = 5, 0.2, 100
_CHUNK = 1_000


def note(session: Session, what: str) -> None:
    """Say in the erasing transaction that the files are to be scrubbed."""
    session.execute(insert(table_of(FileTrace)).inline(), {"what": what, "noted_at": now()})


def due(session: Session, *, older_than_seconds: float) -> list[int]:
    """Return the traces to scrub, once the oldest has waited so long; none while there is nothing to do."""
    oldest = session.scalar(select(func.min(FileTrace.noted_at)))
    if oldest is None or oldest > now() - timedelta(seconds=older_than_seconds):
        return []
    return list(session.scalars(select(FileTrace.id).order_by(FileTrace.id)))


def scrub(database: Database, *, older_than_seconds: float = 0) -> bool:
    """Rewrite the files if something is to be scrubbed; say whether it was. Tried again later if they are in use."""
    with database.reading() as session:
        found = due(session, older_than_seconds=older_than_seconds)
    if not found:
        return False
    with database.looking_up() as connection:
        clean = _vacuum(connection)
    if clean:
        with database.writing() as session:
            # Not all up to the last: one with a lower number may have been committed since, by a slower transaction.
            for start in range(0, len(found), _CHUNK):
                session.execute(delete(FileTrace).where(FileTrace.id.in_(found[start : start + _CHUNK])))
    return clean


def _vacuum(connection: Connection) -> bool:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("VACUUM samples, suppressions, idempotency_keys")
        connection.exec_driver_sql("VACUUM (FULL) request_keys")
        connection.exec_driver_sql("VACUUM (FULL) request_decisions")
        return True
    # First of all: while somebody reads, each rewriting would only make the journal longer by the whole file.
    if not _cut_journal(connection):
        return False
    connection.exec_driver_sql("VACUUM")
    return _cut_journal(connection)


def _cut_journal(connection: Connection) -> bool:
    """Cut SQLite's journal to nothing; say whether that was possible.

    It has to wait for whoever reads, and keeps writers out while it waits: so only for moments, with pauses in which
    they come in. A reader that stays is waited for by trying again later.
    """
    patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
    try:
        for _ in range(_BUSY_TRIES):
            if not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():
                return True
            time.sleep(_BUSY_PAUSE)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={patience}")
    return False
