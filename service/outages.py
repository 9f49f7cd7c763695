"""Tells a resource that is away, full or refusing from a fault of the program. Knows neither HTTP nor the queue."""

import errno
import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.errors import Outage, ServiceError, StorageFull, Unavailable, WrongStore

RETRY_SECONDS = 5
PASSING = frozenset({"storage_full", "storage_unavailable", "database_unavailable", "artifact_store_wrong"})
"""Codes of what the work stands on: the same work goes well once that is cured."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSING = frozenset(
    {errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENETUNREACH, errno.ETIMEDOUT}
)
# Clients of object stores have errors of their own for a store that does not answer.
_STORE_CLIENTS = frozenset({"botocore", "aiobotocore", "aiohttp"})
_SQLITE_FULL = sqlite3.SQLITE_FULL
_SQLITE_AWAY = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
)
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# By code: what a client is told to do, and in its place, where nobody waits for an answer, the operator.
_ADVICE = {
    "storage_full": (
        " and nothing was stored. The operator must free or add space; then send the request again. Jobs go on by "
        "themselves.",
        " The operator must free or add space.",
    ),
    "database_unavailable": (f"; nothing was stored. Try again in {RETRY_SECONDS} seconds.", ""),
    "storage_unavailable": (
        f". The operator must look at its permissions and its connection; try again in {RETRY_SECONDS} seconds.",
        " The operator must look at its permissions and its connection.",
    ),
}
_POSTGRES_FULL = "53100"
# Connection exceptions, out of resources, shutting or starting up, and what a second try cures: locks and deadlocks.
_POSTGRES_AWAY = ("08", "53", "57P", "55P03", "40001", "40P01")


def lacking(error: BaseException) -> ServiceError | None:
    """Return what to tell of an error if a database or storage that is away, full or refusing is behind it."""
    if isinstance(error, PoolTimeoutError):
        return _database_away()
    if isinstance(error, DBAPIError):
        return _of_database(error)
    if isinstance(error, OSError):
        return _of_storage(error)
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return _storage_away(error) if modules & _STORE_CLIENTS else None


def damaged(error: BaseException) -> Unavailable | None:
    """Return what to tell of an error if a SQLite file that is corrupt, or is none, is behind it."""
    code = getattr(error.orig, "sqlite_errorcode", None) if isinstance(error, DBAPIError) else None
    if code is None or code & 0xFF not in _SQLITE_DAMAGED:
        return None
    return Unavailable(
        "The database's file is no database, or is damaged. Put it aside and restore the newest backup: "
        "docs/operations.md."
    )


def _of_database(error: DBAPIError) -> ServiceError | None:
    code, state = getattr(error.orig, "sqlite_errorcode", None), getattr(error.orig, "sqlstate", None)
    if state == _POSTGRES_FULL or (code is not None and code & 0xFF == _SQLITE_FULL):
        return _full("database")
    if code is not None:
        return _database_away() if code & 0xFF in _SQLITE_AWAY else None
    if state is not None:
        return _database_away() if state.startswith(_POSTGRES_AWAY) else None
    # Without a state the server did not answer at all.
    kinds = {kind.__name__ for kind in type(error.orig).__mro__}
    lost = error.connection_invalidated or bool(kinds & {"OperationalError", "InterfaceError"})
    return _database_away() if lost and not isinstance(error.orig, sqlite3.Error) else None


def _of_storage(error: OSError) -> ServiceError | None:
    if isinstance(error, WrongStore):
        return Outage(str(error), code="artifact_store_wrong", retry_after=RETRY_SECONDS)
    if error.errno in _FULL:
        return _full("storage")
    refusing = isinstance(error, PermissionError | ConnectionError) or error.errno in _REFUSING
    # Object stores' clients raise a plain OSError without a number for what they could not name.
    return _storage_away(error) if refusing or (type(error) is OSError and error.errno is None) else None


def of_a_job(lack: ServiceError) -> str:
    """Return what a job's error says: nobody sends it again, and what it stored before, a checkpoint, stays stored."""
    to_clients, to_operators = _ADVICE.get(lack.code, ("", ""))
    if not to_clients:
        return lack.detail
    return f"{lack.detail.removesuffix(to_clients)}, and this attempt came to no result.{to_operators}"


def _full(what: str) -> StorageFull:
    return StorageFull(f"The service's {what} has no room left{_ADVICE[StorageFull.code][0]}")


def _database_away() -> Outage:
    code = "database_unavailable"
    return Outage(f"The database does not answer{_ADVICE[code][0]}", code=code, retry_after=RETRY_SECONDS)


def _storage_away(error: BaseException) -> Outage:
    code = "storage_unavailable"
    said = f"The artifact store or the data folder refuses ({type(error).__name__})"
    return Outage(said + _ADVICE[code][0], code=code, retry_after=RETRY_SECONDS)
