"""Runs migrations on the URL the caller names, or on the service's own settings, or within the caller's transaction.

Otherwise each migration is a transaction of its own. On PostgreSQL none waits long for a lock: behind one that waits
for a table everybody else's statements on that table queue up. ``service/migrate.py`` tries again.
"""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection, inspect, text

from service.settings import Settings
from service.store.session import make_engine
from service.store.tables import Base

LOCK_TIMEOUT = "2s"
# The first revision that says which code it fits; the code before it knows nothing of that.
FIRST = "0020"


def _run() -> None:
    attributes = context.config.attributes
    if (given := attributes.get("connection")) is not None:
        _run_on(given)
        return
    engine = make_engine(attributes.get("database_url") or Settings().resolved_database_url)
    try:
        # A deferred transaction that reads and then writes fails on SQLite when the service wrote in between.
        with engine.execution_options(sqlite_begin="BEGIN IMMEDIATE").connect() as connection:
            _migrate(connection, attributes.get("lock_timeout", LOCK_TIMEOUT))
    finally:
        engine.dispose()


def _migrate(connection: Connection, lock_timeout: str) -> None:
    _bound_waiting(connection, lock_timeout)
    _run_on(connection)
    connection.commit()


def _run_on(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
        on_version_apply=_note_compatibility,
    )
    with context.begin_transaction():
        context.run_migrations()


def _bound_waiting(connection: Connection, seconds: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT set_config('lock_timeout', :seconds, false)"), {"seconds": seconds})
        connection.commit()


def _note_compatibility(
    ctx: MigrationContext,
    step: MigrationInfo,  # noqa: ARG001 - Alembic gives all four, by name
    heads: Collection[Any],
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Say which code the schema fits now, in the transaction of the migration that changed it."""
    connection = ctx.connection
    if connection is None or ctx.as_sql or not inspect(connection).has_table("schema_compatibility"):
        return
    (revision,) = heads
    connection.execute(text("DELETE FROM schema_compatibility"))
    row = text("INSERT INTO schema_compatibility (id, revision, oldest_code) VALUES (1, :revision, :oldest)")
    connection.execute(row, {"revision": revision, "oldest": _oldest_code(revision)})


def _oldest_code(revision: str) -> str:
    """Return what the last contract step up to the revision demands; without one any code will do."""
    for step in context.script.iterate_revisions(revision, "base"):
        if getattr(step.module, "contract", False):
            return str(step.module.oldest_code)
    return FIRST


_run()
