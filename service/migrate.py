"""Brings a database to the newest schema, with the migrations that are installed beside the service.

May run while the service works: docs/upgrade.md says what migrations promise for that.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import OperationalError

import migrations
from service.store import schema
from service.store.schema import SchemaUnfit
from service.store.session import Database, make_engine

# Any number that no other user of the database takes.
_LOCK = 7_214_006
# The newest of the migrations that were written before a migration promised anything to those who use the database.
_BEFORE_THE_RULE = "0019"
# In all some minutes, in which the service can use the table a migration waits for most of the time.
TRIES, PAUSE_SECONDS = 60, 5.0
TURN_SECONDS = 0.2
_LOCK_NOT_AVAILABLE, _DEADLOCK = "55P03", "40P01"
log = structlog.get_logger()


class MigrationBlocked(SchemaUnfit):
    """A migration did not get a lock it needs, though it asked again and again."""

    code = "migration_blocked"
    title = "The migration was kept waiting"


def config(database_url: str) -> Config:
    """Return an Alembic configuration for the installed migrations."""
    found = Config()
    found.set_main_option("script_location", str(Path(migrations.__file__).parent))
    found.attributes["database_url"] = database_url
    return found


def build(connection: Connection, revision: str) -> None:
    """Make the schema of a revision in an empty database, within the connection's transaction; PostgreSQL only."""
    found = config("")
    found.attributes["connection"] = connection
    command.upgrade(found, revision)


def upgrade(database_url: str, *, expand_only: bool = False, strict: bool = False) -> str:
    """Upgrade to head, or with ``expand_only`` up to the first contract step; return where the database stands.

    Two that start together take turns. A newer database is left alone: raises SchemaUnfit if this code cannot work on
    it, or if ``strict``; also where ``expand_only`` would go across migrations that do more.
    """
    engine = make_engine(database_url)
    try:
        revision = _current(engine)
        if revision == schema.chain().head:
            return revision
        if revision is not None and revision not in schema.chain().revisions:
            return _left_alone(engine, revision, strict=strict)
        with turn(database_url, engine):
            target = _target(_current(engine), expand_only=expand_only)
            _run(database_url, target)
            return target
    finally:
        engine.dispose()


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return schema.current(connection)


def _left_alone(engine: Engine, revision: str, *, strict: bool) -> str:
    if strict:
        raise SchemaUnfit(schema.newer(revision))
    schema.refuse_unfit(Database(engine))
    return revision


def _target(revision: str | None, *, expand_only: bool) -> str:
    """Return how far to go. What the running version of the service cannot live with is a contract step."""
    found = schema.chain()
    if not expand_only:
        return found.head
    if revision is not None and revision < _BEFORE_THE_RULE:
        raise SchemaUnfit(
            f"The schema is at {revision}, and no rolling upgrade leads across those up to {_BEFORE_THE_RULE}, which "
            "do more than add. Back up, stop API and workers, and run `unlearn migrate` (docs/upgrade.md)."
        )
    done = found.revisions.index(revision) + 1 if revision is not None else 0
    target = revision or found.head
    for pending in found.revisions[done:]:
        if pending in found.contracts and revision is not None:
            return target
        target = pending
    return target


def _run(database_url: str, target: str) -> None:
    """Migrate; what has to wait for a lock gives way, and is tried again from where it stopped."""
    for left in reversed(range(TRIES)):
        try:
            command.upgrade(config(database_url), target)
            return
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in (_LOCK_NOT_AVAILABLE, _DEADLOCK):
                raise
            if not left:
                raise MigrationBlocked(
                    "Another transaction holds what a migration needs, and has for minutes; nothing of that migration "
                    "was done. Find it in pg_stat_activity, end it, and run `unlearn migrate` again."
                ) from None
            log.info("migration.waits", tries_left=left)
            time.sleep(PAUSE_SECONDS)


@contextmanager
def turn(database_url: str, engine: Engine) -> Iterator[None]:
    """Be the only one who changes the database's schema."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        with Path(f"{url.database}.migrating").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Asked again and again: one that waits inside a statement would keep an index from being made concurrently.
        while not connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK})")):
            time.sleep(TURN_SECONDS)
        try:
            yield
        finally:
            connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
