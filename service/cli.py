"""`unlearn`: run the service, its worker, its migrations, make keys, and show the whole thing in a demo."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from service import (
    artifacts_cli,
    audit_log_cli,
    backup_cli,
    doctor,
    last_words,
    logs,
    migrate,
    outages,
    setting_forms,
    shredding,
    signing_keys_cli,
    worker_health,
)
from service.auth import SCOPES
from service.cli_database import opened, told
from service.evidence import receipts
from service.settings import Settings
from service.store import caches, keys, replays, request_keys, schema, signing_keys, traces
from service.store.session import Database
from service.supervisor import WORKER, Supervisor

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(keys_app, name="keys")
app.add_typer(signing_keys_cli.app, name="signing-keys")
app.add_typer(audit_log_cli.app, name="audit-log")
app.add_typer(artifacts_cli.app, name="artifacts")
caches_app = typer.Typer(no_args_is_help=True, help="Decoded samples on workers' disks.")
app.add_typer(caches_app, name="caches")
DataDir = Annotated[Path | None, typer.Option(help="Folder for database, artifacts and caches; default ./var.")]
MOST_KEYS = 10_000
# Beside what its training is given, and long enough for a busy machine: the worker hands its job back first.
STOP_SECONDS = 60.0


def _settings(data_dir: Path | None) -> Settings:
    """Return the settings, and let child processes see the same data folder."""
    if data_dir is not None:
        os.environ["UNLEARN_DATA_DIR"] = str(data_dir.resolve())
    settings = Settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    return settings


def _run_api(
    settings: Settings, host: str, port: int, *, on_drain: Callable[[], None] = lambda: None, wait_seconds: float = 0.0
) -> None:
    """Serve until asked to end. ``wait_seconds``: how long the process may then wait for others."""
    from service import server
    from service.app import create_app

    last_words.of_threads()
    # Until the server has a handler of its own, and from when it has ended.
    signal.signal(signal.SIGTERM, _leave)
    exit_seconds = server.LAST_SECONDS + wait_seconds
    server.run(create_app(settings), settings, host=host, port=port, on_drain=on_drain, exit_seconds=exit_seconds)


def _leave(*_: Any) -> None:
    """End this process by way of every ``finally``."""
    raise SystemExit(0)


@app.command()
def serve(data_dir: DataDir = None, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run the embedded service: the API and one supervised worker process."""
    settings = _settings(data_dir)
    logs.configure(settings.log_level)
    with told():
        signing_keys.refuse_unusable(settings)
        migrate.upgrade(settings.resolved_database_url)
    patience = settings.worker_drain_seconds + STOP_SECONDS
    supervisor = Supervisor(stop_seconds=patience)
    signal.signal(signal.SIGTERM, _leave)
    try:
        supervisor.start()
        typer.echo(f"Serving on http://{host}:{port}; data in {settings.data_dir}.", err=True)
        _run_api(settings, host, port, on_drain=supervisor.ask, wait_seconds=patience)
    finally:
        supervisor.stop()


@app.command()
def api(data_dir: DataDir = None, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Run the API alone; migrations and workers are run apart."""
    settings = _settings(data_dir)
    logs.configure(settings.log_level)
    with told():
        signing_keys.refuse_unusable(settings)
    _refuse_unfit_schema(settings)
    _run_api(settings, host, port)


@app.command()
def worker(data_dir: DataDir = None) -> None:
    """Run one worker in the foreground; it owns one device."""
    _settings(data_dir)
    os.execv(sys.executable, [sys.executable, *WORKER, "--loglevel", "warning"])  # noqa: S606 - no shell on purpose


@app.command("doctor")
def doctor_command(
    data_dir: DataDir = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False
) -> None:
    """Look at settings, database, keys, broker, artifacts, disk, clock and device. Exit 1 if one is at fault."""
    if data_dir is not None:
        os.environ["UNLEARN_DATA_DIR"] = str(data_dir.resolve())
    found = []
    for finding in doctor.examine(Settings):
        found.append(finding)
        if not as_json:
            typer.echo(finding.line)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1))
    raise typer.Exit(1 if any(finding.level == doctor.Level.FAULT for finding in found) else 0)


@app.command("backup")
def backup_command(
    folder: backup_cli.Folder, prune_journal: backup_cli.Prune = False, data_dir: DataDir = None
) -> None:
    """Copy the database and the artifacts it needs into a new folder, while the service runs."""
    with told():
        backup_cli.make(_settings(data_dir), folder, prune=prune_journal)


@app.command("restore")
def restore_command(folder: backup_cli.Folder, data_dir: DataDir = None) -> None:
    """Put a backup where there is no database yet. Nothing is served before `unlearn replay`."""
    with told():
        backup_cli.restore(_settings(data_dir), folder)


@app.command("replay")
def replay_command(
    nothing_to_replay: backup_cli.Nothing = None, checkpoint: backup_cli.Kept = None, data_dir: DataDir = None
) -> None:
    """Have a restored service forget again what was erased after its backup, by the erasure journal."""
    with told():
        backup_cli.replay(_settings(data_dir), nothing=nothing_to_replay, checkpoint=checkpoint)


@app.command("worker-health")
def worker_health_command(data_dir: DataDir = None) -> None:
    """Say whether this host's workers are well: 0 if each is idle or busy, 1 if one is deaf or none lives."""
    settings = _settings(data_dir)
    try:
        well, found = worker_health.check(settings)
    except SQLAlchemyError as error:
        well, found = False, worker_health.why_not(settings, error)
    typer.echo(found)
    raise typer.Exit(0 if well else 1)


@app.command("migrate")
def migrate_command(
    expand: Annotated[
        bool, typer.Option("--expand", help="Stop before the first step that the version now running cannot live with.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Bring the database to the newest schema. May run while the service works: see docs/upgrade.md."""
    settings = _settings(data_dir)
    logs.configure(settings.log_level)
    with told():
        revision = migrate.upgrade(settings.resolved_database_url, expand_only=expand, strict=True)
    typer.echo(f"The schema is at {revision}.", err=True)


@app.command()
def shred(
    request_id: Annotated[str | None, typer.Argument(help="A deletion request that is over.")] = None,
    expired: Annotated[bool, typer.Option("--expired", help="All requests whose retention is over.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Delete a request's key, and rid the database's files of it: its commitments then speak of nobody."""
    if (request_id is None) != expired:
        raise typer.BadParameter("name a request, or say --expired")
    settings = _settings(data_dir)
    with _store(data_dir) as database:
        count = 1
        if request_id is None:
            count = shredding.shred_over(database, settings)
        else:
            with database.writing() as session:
                request_keys.shred(session, request_id, reason="ordered")
        clean = not count or traces.scrub(database)
    later = "" if clean else "; the database is in use, so its files are scrubbed by the service later"
    typer.echo(f"shredded {count}{later}")


@app.command("verify-receipt")
def verify_receipt(
    file: Annotated[Path, typer.Argument(help="A receipt, as JSON.", exists=True, dir_okay=False)],
    request: Annotated[str | None, typer.Option(help="The request it must be of.")] = None,
    root: Annotated[str | None, typer.Option(help="The root in the certificate or the log, hex.")] = None,
) -> None:
    """Check a receipt offline: exit 0 if its id was covered."""
    try:
        found = json.loads(file.read_text())
        receipts.check(found, request_id=request, commitment_root=root)
    except receipts.ReceiptRefused as error:
        typer.echo(f"refused ({error.code}): {error}")
        raise typer.Exit(1) from None
    except ValueError:
        typer.echo(f"{file.name} is not JSON.")
        raise typer.Exit(1) from None
    typer.echo(f"covered by {found['request_id']}, dataset {found['dataset']}")
    if root is None:
        typer.echo("Its root was not compared: give --root from the certificate or from the log.")


@app.command()
def demo(
    data_dir: Annotated[Path | None, typer.Option(help="Where to run; default: a fresh temporary folder.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the service up at the end.")] = False,
) -> None:
    """Erase 90 real images from a trained network, over HTTP, and show what was measured."""
    from service import demo as script

    raise typer.Exit(script.run(data_dir, keep=keep))


@app.command()
def verify(
    bundle: Path,
    trusted_key: Annotated[list[str] | None, typer.Option(help="The key to trust, or a file with keys.")] = None,
    weights: Annotated[list[Path] | None, typer.Option(help="A weights file that it should be about.")] = None,
    report: Annotated[list[Path] | None, typer.Option(help="A report that it should be about.")] = None,
    believe_date: Annotated[
        bool, typer.Option("--believe-date", help="Accept what was issued before its key was revoked.")
    ] = False,
) -> None:
    """Check a certificate's bundle offline. 0 verified, 1 refused, 2 usage, 3 no trusted key given, 4 unreadable."""
    from service.evidence import verify as verifier

    raise typer.Exit(
        verifier.run(
            bundle, keys=trusted_key or [], weights=weights or [], reports=report or [], believe_date=believe_date
        )
    )


@keys_app.command("create")
def create_key(
    name: str,
    scope: Annotated[list[str], typer.Option(help="One of: " + ", ".join(sorted(SCOPES)))],
    data_dir: DataDir = None,
) -> None:
    """Print a new API key, once; only its hash is stored."""
    unknown = sorted(set(scope) - SCOPES)
    if unknown:
        raise typer.BadParameter(f"unknown scope {', '.join(unknown)}; known: {', '.join(sorted(SCOPES))}")
    with _store(data_dir, make=True) as database, database.writing() as session:
        _, text = keys.create(session, name=name, scopes=scope)
    typer.echo(text)


@keys_app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """List the keys, tab-separated, without their text."""
    with _store(data_dir) as database, database.reading() as session:
        typer.echo("\t".join(("ID", "NAME", "PREFIX", "SCOPES", "EXPIRES", "LAST USED", "STATE")))
        for row in keys.page(session, after="", limit=MOST_KEYS):
            times = (at.isoformat(timespec="seconds") if at else "-" for at in (row.expires_at, row.last_used_at))
            typer.echo("\t".join((row.id, row.name, row.prefix, ",".join(row.scopes), *times, keys.state(row))))


@keys_app.command("rotate")
def rotate_key(
    key_id: str,
    overlap_seconds: Annotated[int, typer.Option(min=0, max=keys.MAX_OVERLAP_SECONDS)] = keys.OVERLAP_SECONDS,
    data_dir: DataDir = None,
) -> None:
    """Print a new secret for the key, once; the one it had stays valid through the overlap."""
    with _store(data_dir) as database, database.writing() as session:
        _, text = keys.rotate(session, key_id, overlap_seconds=overlap_seconds)
    typer.echo(text)


@keys_app.command("revoke")
def revoke_key(key_id: str, data_dir: DataDir = None) -> None:
    """End a key now, with whatever secrets it has."""
    with _store(data_dir) as database, database.writing() as session:
        keys.revoke(session, key_id)


@caches_app.command("list")
def list_caches(data_dir: DataDir = None) -> None:
    """List where decoded samples lie, tab-separated."""
    with _store(data_dir) as database, database.reading() as session:
        typer.echo("\t".join(("PLACE", "MACHINE", "DATASET", "SINCE")))
        for row, dataset in caches.every(session):
            typer.echo("\t".join((row.place, row.machine, dataset, row.made_at.isoformat(timespec="seconds"))))


@caches_app.command("lost")
def lost_cache(
    place: str, reason: Annotated[caches.Loss, typer.Option(help="What became of it.")], data_dir: DataDir = None
) -> None:
    """Say that a worker's disk is gone for good; the ledgers that wait for it are told that you say so."""
    with _store(data_dir) as database, database.writing() as session:
        count = caches.declare_lost(session, place, reason=reason)
    typer.echo(f"declared lost; {count} requests waited for it")


def _refuse_unfit_schema(settings: Settings) -> None:
    """End with the reason if the database's schema is not for this code; one that is away is waited for."""
    database = Database.open(settings)
    try:
        with told():
            _refuse_unfit_if_there(database)
    finally:
        database.dispose()


def _refuse_unfit_if_there(database: Database) -> None:
    try:
        schema.refuse_unfit(database)
    except SQLAlchemyError as error:
        if outages.lacking(error) is None:
            raise


@contextmanager
def _store(data_dir: Path | None, *, make: bool = False) -> Iterator[Database]:
    """Yield the database, ``make`` one where there is none; an error that can be acted on ends the command with it."""
    with told(), opened(_settings(data_dir), make=make) as database:
        with database.reading() as session:
            replays.refuse_writing(session)
        yield database


def main() -> None:
    # Whatever a command does may log: standard output is for its result alone.
    logs.configure(_log_level())
    try:
        app()
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        typer.echo("\n".join(setting_forms.faults_of(error)), err=True)
        sys.exit(1)


def _log_level() -> str:
    """Return the level asked for, info where it is none: commands that read no settings work all the same."""
    level = os.environ.get("UNLEARN_LOG_LEVEL", "info")
    return level if level.upper() in logging.getLevelNamesMapping() else "info"


if __name__ == "__main__":
    main()
