"""Whether this code can work on the schema that a database has.

The schema may be ahead of the code: while a rolling upgrade lasts, the old version serves on what the new version's
migrations have made. They say in the database from which code on it can be used (``SchemaCompatibility``), and the code
believes that only where it is said of the very revision at which the database stands.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

import migrations
from service.errors import Unavailable
from service.store.session import Database
from service.store.tables import SchemaCompatibility


class SchemaUnfit(Unavailable):
    """The database's schema is not one that this code can work on."""

    code = "schema_unfit"
    title = "The database's schema does not fit this version"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The revisions this code brings, oldest first, and the oldest of them on which it works."""

    revisions: tuple[str, ...]
    needs: str
    contracts: frozenset[str]

    @property
    def head(self) -> str:
        return self.revisions[-1]


def scripts() -> ScriptDirectory:
    """Return the installed migrations."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def chain_of(found: ScriptDirectory) -> Chain:
    """Return the chain; a migration that says ``contract = True`` takes away what this code does not use any more."""
    steps = list(found.walk_revisions())[::-1]
    contracts = frozenset(step.revision for step in steps if getattr(step.module, "contract", False))
    revisions = tuple(step.revision for step in steps)
    needs = next(revision for revision in reversed(revisions) if revision not in contracts)
    return Chain(revisions=revisions, needs=needs, contracts=contracts)


@cache
def chain() -> Chain:
    return chain_of(scripts())


def refuse_unfit(database: Database) -> None:
    """Raise SchemaUnfit if this code cannot work on the database as it is; its detail says what to do."""
    reason = unfit(database)
    if reason is not None:
        raise SchemaUnfit(reason)


def unfit(database: Database) -> str | None:
    """Return why this code cannot work on the database, or None if it can."""
    with database.engine.connect() as connection:
        revision = current(connection)
        found = chain()
        if revision is None:
            return "The database has no schema yet: run `unlearn migrate`."
        if revision not in found.revisions:
            return None if _supports(connection, revision, found.head) else newer(revision)
    if found.revisions.index(revision) < found.revisions.index(found.needs):
        return (
            f"The database's schema is older than this version of the service: it is at {revision}, and this version "
            f"needs {found.needs}. Run `unlearn migrate`."
        )
    return None


def newer(revision: str) -> str:
    """Return what to tell of a schema that this code does not know."""
    return (
        f"This database was written by a newer version of the service: its schema is at {revision}, and this version "
        f"ends at {chain().head}. Run that version, or restore a backup from before the upgrade."
    )


def current(connection: Connection) -> str | None:
    """Return the revision a database is at; None if it was never migrated."""
    try:
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    except DBAPIError as error:
        if not _no_such_table(error):
            raise
        connection.rollback()
        return None
    return revision


def _supports(connection: Connection, revision: str, head: str) -> bool:
    query = select(SchemaCompatibility.oldest_code).where(SchemaCompatibility.revision == revision)
    try:
        oldest = connection.scalar(query)
    except DBAPIError as error:
        if not _no_such_table(error):
            raise
        return False
    # Revisions are numbered, so that code can compare itself with one that it does not know.
    return oldest is not None and oldest <= head


def _no_such_table(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "42P01" or "no such table" in str(error.orig)
