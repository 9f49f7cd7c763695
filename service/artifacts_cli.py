"""`unlearn artifacts`: take another artifact store as the database's own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.cli_database import opened, told
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store import replays

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
    with told(), opened(settings) as database:
        with database.reading() as session:
            replays.refuse_writing(session)
        store = OwnArtifacts(settings.resolved_artifacts_url, database)
        found = store.adopt(reason=reason, despite_missing=despite_missing)
    present = found["looked_for"] - found["missing"]
    typer.echo(f"{found['store_id']} is this database's store; {present} of {found['looked_for']} weights are there")
