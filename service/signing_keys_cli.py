"""`unlearn signing-keys`: list, rotate and revoke the keys that sign checkpoints and certificates."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.cli_database import opened, told
from service.settings import Settings
from service.store import audit, replays, signing_keys
from service.store.session import Database
from service.store.tables import SigningKey

app = typer.Typer(no_args_is_help=True, help="Keys that sign checkpoints and certificates.")
DataDir = Annotated[Path | None, typer.Option(help="Folder for database, artifacts and caches; default ./var.")]


@contextmanager
def _opened(data_dir: Path | None, *, make: bool = False) -> Iterator[tuple[Settings, Database]]:
    """Yield the settings and the database; an error the operator can act on ends the command with 1."""
    settings = Settings() if data_dir is None else Settings(data_dir=data_dir)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with told(), opened(settings, make=make) as database:
        with database.reading() as session:
            replays.refuse_writing(session)
        yield settings, database


@app.command("list")
def list_all(data_dir: DataDir = None) -> None:
    """Print each key: its id, public key, from when to when it signs, and what it is now."""
    with _opened(data_dir) as (_, database), database.reading() as session:
        for row in signing_keys.every(session):
            until = audit.moment(row.not_after) if row.not_after else "-"
            typer.echo(f"{row.key_id} {row.public_key.hex()} {audit.moment(row.not_before)} {until} {_state(row)}")


def _state(row: SigningKey) -> str:
    if row.revoked_at is not None:
        return f"revoked {audit.moment(row.revoked_at)}"
    return "current" if row.not_after is None else "retired"


@app.command()
def rotate(data_dir: DataDir = None) -> None:
    """Retire the current key and make the next one current: the configured one, or a new one in the data folder."""
    with _opened(data_dir, make=True) as (settings, database):
        with database.writing() as session:
            signing_keys.rotate(session, settings)
        with database.reading() as session:
            typer.echo(signing_keys.current(session, settings).key_id)


@app.command()
def revoke(
    key_id: str,
    reason: Annotated[str, typer.Option(help="Why, in a few words; they stand in the log.")],
    data_dir: DataDir = None,
) -> None:
    """Say that nothing signed with a key is to be trusted. Of the current key, `rotate` comes next."""
    with _opened(data_dir) as (_, database), database.writing() as session:
        signing_keys.revoke(session, key_id, reason=reason[:200])
