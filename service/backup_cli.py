"""`unlearn backup`, `restore` and `replay`: a copy to come back from, and what was erased since."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from service import backup, journaling
from service.cli_database import opened
from service.erasure_journal import Journal, Segment, journal_key, story
from service.errors import Conflict, ServiceError
from service.evidence.commitments import suppression_key
from service.settings import Settings
from service.store import checkpoints, journal_heads, replays, traces
from service.store.replays import Done
from service.store.session import Database
from service.store.tables import Restore

MOST_NAMED = 1_000
_OLDER = "To back it up as it is, use `unlearn backup` of the release that runs on it."


def make(settings: Settings, folder: Path, *, prune: bool) -> None:
    """Back up, after the journal was brought up to date; with ``prune``, leave only what this backup may need of it."""
    with opened(settings, advice=_OLDER) as database:
        journaling.write(database, settings)
    journal = Journal(settings.resolved_erasure_journal_url, journal_key(settings.master_key_bytes))
    newest = max(journal.numbers(), default=0)
    made = backup.make(settings, folder)
    typer.echo(f"backed up {made.log_size} log entries and {len(made.artifacts)} artifacts as {made.id} in {folder}")
    if prune:
        typer.echo(f"removed {journal.remove_before(newest)} segments of the journal")
    if made.absent:
        typer.echo(f"{len(made.absent)} artifacts had gone by then: {', '.join(made.absent)}", err=True)
    typer.echo("The master key and the signing key are not in it: keep them elsewhere.", err=True)


def restore(settings: Settings, folder: Path) -> None:
    made = backup.restore(settings, folder)
    typer.echo(f"restored {made.id} of {made.made_at.isoformat(timespec='seconds')}: {made.log_size} log entries")
    typer.echo("Nothing is served before what was erased since is replayed: run `unlearn replay`.", err=True)


def replay(settings: Settings, *, nothing: str | None, checkpoint: Path | None = None) -> None:
    """Replay the journal, or note that a person says there is nothing to replay, and why.

    ``checkpoint``: a signed one that was kept elsewhere; the journal has to reach it.
    """
    with opened(settings) as database:
        with database.reading() as session:
            if replays.pending(session) is None:
                typer.echo("no restore waits for a replay")
                return
        if nothing is not None:
            with database.writing() as session:
                replays.acknowledge(session, _pending(session), reason=nothing)
            typer.echo("noted that there is nothing to replay")
            return
        note = checkpoint.read_text() if checkpoint is not None else None
        _tell(_from_journal(database, settings, note))
        traces.scrub(database)


def _from_journal(database: Database, settings: Settings, note: str | None) -> Done:
    journal = Journal(settings.resolved_erasure_journal_url, journal_key(settings.master_key_bytes))
    segments = journal.whole()
    if not segments:
        raise ServiceError(
            f"There is no erasure journal in {settings.resolved_erasure_journal_url}. Bring it there, or set "
            "UNLEARN_ERASURE_JOURNAL_URL; if nothing was erased since the backup, say so with --nothing-to-replay."
        )
    with database.writing() as session:
        _refuse_cut(session, journal, segments[-1])
        done = replays.replay(
            session,
            _pending(session),
            entries=story(segments),
            tokens=[token for segment in segments for token in segment.tokens],
            suppression_key=suppression_key(settings.master_key_bytes),
        )
        journal_heads.move(session, segments[-1].head)
        if note is not None:
            checkpoints.refuse_unreached(session, settings, note)
        return done


def _refuse_cut(session: Session, journal: Journal, last: Segment) -> None:
    known = journal_heads.known(session)
    if known is not None and journal.is_cut(known, last):
        raise Conflict(
            f"The erasure journal ends with segment {last.number}, or has another one in the place of {known.number}, "
            "which the backup knows: its newest segments are missing. Bring them back; without them, what was erased "
            "since is not known, and only a person can say --nothing-to-replay.",
            code="erasure_journal_cut",
        )


def _pending(session: Session) -> Restore:
    found = replays.pending(session)
    if found is None:
        raise ServiceError("Another process has replayed it already.")
    return found


def _tell(done: Done) -> None:
    typer.echo(
        f"replayed {done.entries} log entries: {done.suppressed} ids suppressed, {done.versions_retired} versions "
        f"retired, {done.keys_shredded} request keys shredded, {done.api_keys_revoked} API keys revoked, "
        f"{done.webhooks_ended} webhooks deleted or disabled"
    )
    for text, ids in (
        ("received after the backup and lost; the controller sends them again", done.lost_requests),
        (
            "received after the backup and had ended; what they erased is erased, but the service knows them no more, "
            "nor their certificates and receipts",
            done.ended_requests,
        ),
        ("decided on after the backup, which could not be done again; decide anew", done.to_decide),
    ):
        if ids:
            typer.echo(f"{len(ids)} requests were {text}:", err=True)
            for request_id in ids[:MOST_NAMED]:
                typer.echo(f"  {request_id}", err=True)


Folder = Annotated[Path, typer.Argument(help="The backup's folder.", file_okay=False)]
Prune = Annotated[
    bool, typer.Option("--prune-journal", help="Remove what only older backups need of the journal: delete them too.")
]
Kept = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="A signed checkpoint kept elsewhere: the journal has to reach it.", exists=True),
]
Nothing = Annotated[
    str | None,
    typer.Option("--nothing-to-replay", help="Why nothing was erased since the backup; it enters the audit log."),
]
