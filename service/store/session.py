"""Engines and transactions. The boundary commits, the body never does.

``Database.reading`` never writes. ``Database.writing`` opens with BEGIN IMMEDIATE on SQLite, because there a
deferred transaction that reads and then writes fails at once when somebody else wrote in between, whatever the
timeout. On the way out it appends the audit entries that the body recorded, as its last statements, and commits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from service.settings import Settings
from service.store import audit, events

SQLITE_BUSY_SECONDS = 30


class Database:
    """The store's engine and its two kinds of transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._read = engine.execution_options(sqlite_begin="BEGIN")
        self._write = engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @classmethod
    def open(cls, settings: Settings) -> "Database":
        return cls(make_engine(settings.resolved_database_url))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session whose changes, if any, are thrown away."""
        with Session(self._read, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that commits at the end, or rolls everything back if the body raises."""
        with Session(self._write, expire_on_commit=False) as session, session.begin():
            yield session
            session.flush()
            # Under the audit head's lock events get their ids in the order of commits, so no follower skips one.
            audit.append_recorded(session)
            events.append_emitted(session)

    def dispose(self) -> None:
        self.engine.dispose()


def make_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL with the settings this store relies on."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=10, max_overflow=30, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(
        url,
        pool_size=10,
        max_overflow=30,
        hide_parameters=True,  # an error's text may end in a log, and parameters are sample IDs
        connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    raw: Any = connection
    raw.isolation_level = None  # the driver's own BEGIN is deferred and cannot be told otherwise
    cursor = raw.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
