"""`unlearn artifacts`: take another artifact store as the database's own."""

import os
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from service import migrate, outages
from service.errors import ServiceError
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store import replays
from service.store.session import Database

app = typer.Typer(no_args_is_help=True, help="The artifact store.")


@app.callback()
def _group() -> None:
    """The artifact store."""


@app.command()
def adopt(
    reason: Annotated[str, typer.Option(help="Why it is the right store; it enters the audit log.")],
    despite_missing: Annotated[
        bool, typer.Option("--despite-missing", help="Also where weights in circulation are lost.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder for database, artifacts and caches.")] = None,
) -> None:
    """Make the store at UNLEARN_ARTIFACTS_URL this database's own: bytes that the database does not name go from it."""
    if data_dir is not None:
        os.environ["UNLEARN_DATA_DIR"] = str(data_dir.resolve())
    settings = Settings()
    try:
        migrate.upgrade(settings.resolved_database_url)
        database = Database.open(settings)
        try:
            with database.reading() as session:
                replays.refuse_writing(session)
            store = OwnArtifacts(settings.resolved_artifacts_url, database)
            told = store.adopt(reason=reason, despite_missing=despite_missing)
        finally:
            database.dispose()
    except (ServiceError, SQLAlchemyError, OSError) as error:
        lack = error if isinstance(error, ServiceError) else outages.lacking(error)
        if lack is None:
            raise
        typer.echo(lack.detail, err=True)
        raise typer.Exit(1) from None
    present = told["looked_for"] - told["missing"]
    typer.echo(f"{told['store_id']} is this database's store; {present} of {told['looked_for']} weights are there")
