"""Is the database there, at this release's schema, guarded by its triggers, at the same time as this host, at work?"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import migrate, outages
from service.doctor.finding import Finding
from service.settings import Settings
from service.store import gauges, replays, waiting_jobs, workers
from service.store.session import Database
from service.store.tables import AuditHead
from service.store.workers import WorkerState

APPEND_ONLY = ("audit_entries", "audit_checkpoints")
_MOST_SKEW, _LOG_PATIENCE = 2.0, 3_600.0
_MOST_NAMED = 10
_GUARDED = "no trigger refuses changes of {}"


def look(settings: Settings) -> Iterator[Finding]:
    if absent(settings):
        yield Finding.fault("database", "there is none in the data folder", "Run `unlearn migrate` or `unlearn serve`.")
        return
    database = Database.open(settings)
    try:
        with database.engine.connect() as connection:
            began = time.monotonic()
            yield _reached(connection)
            yield from _skew(connection)
            at_head = _schema(connection)
            yield at_head
            yield from _triggers(connection)
        if at_head.level == "ok":
            with database.reading() as session:
                yield from _at_work(session, settings)
        yield Finding.ok("database", f"all looks took {time.monotonic() - began:.1f} s")
    except SQLAlchemyError as error:
        if (damage := outages.damaged(error)) is not None:
            yield Finding.fault("database", "is damaged", damage.detail)
            return
        todo = "Is it running, and are UNLEARN_DATABASE_URL and its password right?"
        yield Finding.fault("database", f"does not answer ({type(error).__name__})", todo)
    finally:
        database.dispose()


def absent(settings: Settings) -> bool:
    """Say whether the database is a file that is not there; connecting would make it."""
    return not settings.database_url and not (settings.data_dir / "unlearn.db").exists()


def _reached(connection: Connection) -> Finding:
    statement = "SELECT sqlite_version()" if connection.dialect.name == "sqlite" else "SHOW server_version"
    return Finding.ok("database", f"{connection.dialect.name} {connection.scalar(text(statement))}")


def _skew(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name == "sqlite":
        return
    theirs = connection.scalar(text("SELECT clock_timestamp()"))
    skew = abs((datetime.now(UTC) - theirs).total_seconds()) if isinstance(theirs, datetime) else 0.0
    if skew > _MOST_SKEW:
        todo = "Run NTP on both: leases and due dates are counted by the hosts' clocks."
        yield Finding.fault("clock", f"this host and the database differ by {skew:.1f} s", todo)
    else:
        yield Finding.ok("clock", f"this host and the database differ by {skew:.2f} s")


def _schema(connection: Connection) -> Finding:
    head = ScriptDirectory.from_config(migrate.config("sqlite://")).get_current_head()
    try:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except SQLAlchemyError:
        connection.rollback()
        return Finding.fault("migrations", "the database has no schema", "Run `unlearn migrate`.")
    if found == head:
        return Finding.ok("migrations", f"at {head}, the newest")
    todo = "Run `unlearn migrate`; if the schema is newer than this release, start the newer release."
    return Finding.fault("migrations", f"at {found}; this release needs {head}", todo)


def _triggers(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
    names = set(connection.scalars(text(query)))
    # A schema that is older has not all of these tables; `_schema` says so.
    there = [table for table in APPEND_ONLY if inspect(connection).has_table(table)]
    missing = [t for t in there if not {f"{t}_no_update", f"{t}_no_delete"} <= {name.lower() for name in names}]
    for table in missing:
        todo = "Somebody removed it; compare the log with a checkpoint kept elsewhere, then restore the trigger."
        yield Finding.fault("database", _GUARDED.format(table), todo)
    if there and not missing:
        yield Finding.ok("database", "triggers refuse changes of the log")


def _at_work(session: Session, settings: Settings) -> Iterator[Finding]:
    if replays.pending(session) is not None:
        yield Finding.fault("restore", "what was erased since the backup is not replayed", "Run `unlearn replay`.")
    yield from _workers(session, settings)
    found = gauges.read(session, sweep_seconds=settings.sweep_seconds)
    if found.overdue:
        yield Finding.warning("requests", f"{found.overdue} are overdue", "See docs/operations.md on overdue requests.")
    if stuck := sum(found.stuck_by_status.values()):
        yield _waiting(session, stuck)
    if found.undeletable:
        todo = "The workers' log says `purge.failed`; mend the artifact store."
        yield Finding.warning("artifacts", f"the bytes of {found.undeletable} retired versions are still there", todo)
    if found.webhooks_dead:
        todo = "`GET /v1/webhooks/{id}/deliveries`; replay them once the receiver is well."
        yield Finding.warning("webhooks", f"{found.webhooks_dead} deliveries were given up", todo)
    behind = found.log_size - found.checkpoint_size
    if behind > 0 and found.checkpoint_age > _LOG_PATIENCE:
        todo = "Is the API running, and its signing key the current one?"
        yield Finding.warning("log", f"{behind} entries are under no checkpoint for {found.checkpoint_age:.0f} s", todo)
    yield from _time_of_log(session)


def _waiting(session: Session, count: int) -> Finding:
    named = [f"{job.id} ({job.kind}, {job.status})" for job in waiting_jobs.first(session, limit=_MOST_NAMED)]
    more = f" and {count - len(named)} more" if count > len(named) else ""
    todo = "`GET /v1/jobs/{id}` says why; mend it, then `POST /v1/jobs/{id}/retry`, or `/approve` one that is held."
    return Finding.warning("jobs", f"{count} wait for a person: {', '.join(named)}{more}", todo)


def _workers(session: Session, settings: Settings) -> Iterator[Finding]:
    counts = workers.count_states(workers.states(session, sweep_seconds=settings.sweep_seconds))
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none was seen within a day"
    if counts[WorkerState.DEAF]:
        yield Finding.fault("workers", said, "Restart the deaf ones: they live, but take no work.")
    elif not counts[WorkerState.IDLE] + counts[WorkerState.BUSY]:
        yield Finding.fault("workers", said, "Start a worker: requests are taken in, but nothing is worked on.")
    else:
        yield Finding.ok("workers", said)


def _time_of_log(session: Session) -> Iterator[Finding]:
    newest = session.scalar(select(AuditHead.time))
    ahead = (datetime.fromisoformat(newest) - datetime.now(UTC)).total_seconds() if newest else 0.0
    if ahead > _MOST_SKEW:
        todo = "A clock was ahead, or this one jumped back: entries are dated with the newest time until it catches up."
        yield Finding.warning("clock", f"the log's newest entry is {ahead:.0f} s in the future", todo)
