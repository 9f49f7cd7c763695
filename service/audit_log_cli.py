"""`unlearn audit-log`: check an exported log offline, and keep the service's role from changing it."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli_database import opened, told
from service.evidence.log_verification import InvalidLog, verify_log
from service.evidence.notes import InvalidNote, NoteKey
from service.settings import Settings
from service.store import grants

app = typer.Typer(no_args_is_help=True, help="The audit log.")


@app.command()
def verify(
    export: Annotated[Path, typer.Argument(help="What GET /v1/audit/export gave, unfiltered.")],
    checkpoint: Annotated[list[Path], typer.Option(help="A signed checkpoint; earlier ones that were kept, too.")],
    trusted_key: Annotated[list[str], typer.Option(help="A verifier key: name+id+base64.")],
) -> None:
    """Check offline that an export is the log that was signed. 0 it is, 1 it is not, 2 usage."""
    try:
        trusted = [NoteKey.parse(text) for text in trusted_key]
        notes = [path.read_bytes().decode() for path in checkpoint]
    except (InvalidNote, OSError, ValueError) as fault:
        raise typer.BadParameter(str(fault)) from None
    try:
        with export.open("rb") as lines:
            found = verify_log(lines, checkpoints=notes, trusted=trusted)
    except InvalidLog as fault:
        typer.echo(f"refused: {fault}", err=True)
        raise typer.Exit(1) from None
    except OSError as fault:
        raise typer.BadParameter(f"{export}: {fault.strerror}") from None
    typer.echo(f"verified: {found[-1].size} entries of {found[-1].origin}")


@app.command()
def grant(
    role: Annotated[str, typer.Argument(help="An existing role of PostgreSQL that does not own the tables.")],
) -> None:
    """Give a role what the service needs, and no right to change the log. Run as the tables' owner."""
    settings = Settings()
    if not settings.database_url.startswith("postgresql"):
        raise typer.BadParameter("UNLEARN_DATABASE_URL names no PostgreSQL database; SQLite has no roles")
    with told(), opened(settings, make=True) as database, database.writing() as session:
        grants.grant(session, role)
    typer.echo(f"granted to {role}")
