"""The database as a command finds it: never migrated in passing, which `unlearn migrate` and `unlearn serve` do alone.

A backup that is made before an upgrade, with the new release's command, would be one of after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from service import migrate, outages
from service.errors import ServiceError
from service.settings import Settings
from service.store import schema
from service.store.schema import SchemaUnfit
from service.store.session import Database


@contextmanager
def opened(settings: Settings, *, make: bool = False, advice: str = "") -> Iterator[Database]:
    """Yield the database if this code can work on its schema. Raises SchemaUnfit, which says what to do.

    ``make``: where there is no database yet, or an empty one, it is made; what a first key is put into.
    ``advice``: said beside, of a schema that does not fit.
    """
    _refuse_absent(settings.resolved_database_url, make=make)
    database = Database.open(settings)
    try:
        empty = _is_empty(database)
        if make and empty:
            migrate.upgrade(settings.resolved_database_url)
        if (reason := schema.unfit(database)) is not None:
            raise SchemaUnfit(reason if empty or not advice else f"{reason} {advice}")
        yield database
    finally:
        database.dispose()


def _refuse_absent(url: str, *, make: bool) -> None:
    """Raise SchemaUnfit before a file of SQLite that is not there comes into being by being looked at."""
    place = make_url(url)
    if not make and place.get_backend_name() == "sqlite" and not Path(str(place.database)).exists():
        raise SchemaUnfit("There is no database yet: run `unlearn migrate`.")


def _is_empty(database: Database) -> bool:
    with database.engine.connect() as connection:
        return schema.current(connection) is None


@contextmanager
def told() -> Iterator[None]:
    """End the command with the reason where the service would answer with a problem."""
    try:
        yield
    except (ServiceError, SQLAlchemyError, OSError) as error:
        reason = error if isinstance(error, ServiceError) else outages.lacking(error) or outages.damaged(error)
        if reason is None:
            raise
        typer.echo(reason.detail, err=True)
        raise typer.Exit(1) from None
