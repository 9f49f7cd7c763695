"""Engines and transactions. The boundary commits, the body never does.

``Database.reading`` never writes. ``Database.writing`` opens with BEGIN IMMEDIATE on SQLite, because there a
deferred transaction that reads and then writes fails at once when somebody else wrote in between, whatever the
timeout. On the way out it appends the audit entries that the body recorded, as its last statements, and commits.
``Database.looking_up`` is for a single statement and opens no transaction. In which order a transaction locks rows:
docs/lock-order.md.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.settings import Settings
from service.store import audit, events, outbox
from service.store.pipelining import pipelined

SQLITE_BUSY_SECONDS = 30
# A host that is gone refuses nothing: without these a thread would wait for it for minutes, or for ever.
CONNECT_SECONDS, SILENT_SECONDS = 5, 30
# A server takes longer than this to restart.
PING_AFTER_SECONDS = 1.0
_IDLE_SINCE = "idle_since"
_WRITING = "BEGIN IMMEDIATE"


class Database:
    """The store's engine and its two kinds of transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._read = engine.execution_options(sqlite_begin="BEGIN")
        self._write = engine.execution_options(sqlite_begin=_WRITING)
        self._look_up = engine.execution_options(sqlite_begin=None, isolation_level="AUTOCOMMIT")

    @classmethod
    def open(cls, settings: Settings) -> "Database":
        return cls(make_engine(settings.resolved_database_url))

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session whose changes, if any, are thrown away."""
        with Session(self._read, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def looking_up(self) -> Iterator[Connection]:
        """Yield a connection for one SELECT: each statement stands alone, and none waits for BEGIN and ROLLBACK."""
        with self._look_up.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Yield a session that commits at the end, or rolls everything back if the body raises."""
        with Session(self._write, expire_on_commit=False) as session, session.begin():
            yield session
            session.flush()
            # Under the audit head's lock events get their ids in the order of commits, so no follower skips one.
            numbered = audit.take_numbers(session)
            with pipelined(session):
                audit.append_recorded(session, numbered)
                events.append_emitted(session)
                outbox.append_announced(session)

    def dispose(self) -> None:
        self.engine.dispose()


def may_write(session: Session) -> bool:
    """Say whether what the session changes will be committed."""
    engine = session.get_bind()
    return engine.get_execution_options().get("sqlite_begin") == _WRITING


def make_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL with the settings this store relies on."""
    if not url.startswith("sqlite"):
        engine = create_engine(
            url, pool_size=10, max_overflow=30, hide_parameters=True, connect_args=_patience_of(make_url(url))
        )
        event.listen(engine, "checkin", _note_idle_since)
        event.listen(engine, "checkout", partial(_refuse_if_dead, engine))
        return engine
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


def _patience_of(url: URL) -> dict[str, int]:
    """Return how long to wait for a server that does not answer at all; what the URL says goes before."""
    limits = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 1000 * SILENT_SECONDS}
    return {name: limit for name, limit in limits.items() if name not in url.query}


def _note_idle_since(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_IDLE_SINCE] = time.monotonic()


def _refuse_if_dead(
    engine: Engine, connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection
) -> None:
    """Have the pool replace a connection that a restarted server has closed.

    SQLAlchemy's own `pool_pre_ping` asks at every checkout, which costs a busy process a round trip each time.
    """
    idle = time.monotonic() - record.info.get(_IDLE_SINCE, math.inf)
    if PING_AFTER_SECONDS < idle < math.inf and not _alive(engine, connection):
        raise DisconnectionError


def _alive(engine: Engine, connection: DBAPIConnection) -> bool:
    try:
        return engine.dialect.do_ping(connection)
    except engine.dialect.loaded_dbapi.Error:
        return False


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    raw: Any = connection
    raw.isolation_level = None  # the driver's own BEGIN is deferred and cannot be told otherwise
    cursor = raw.cursor()
    # FULL, since what was answered must outlast a power cut: in WAL mode NORMAL syncs no commit, only checkpoints.
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    begin = connection.get_execution_options().get("sqlite_begin", "BEGIN")
    if begin is not None:
        connection.exec_driver_sql(begin)
