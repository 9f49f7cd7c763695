"""Backup and restore of the database with the artifacts that it names; the keys are never in it.

The database is copied first, in one snapshot: SQLite by its backup interface, PostgreSQL by COPY of each table. Then
the artifacts that the snapshot needs. The manifest comes last and holds the digest of each file, so that a backup
without one is none.
"""

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory
from pydantic import BaseModel, ValidationError
from sqlalchemy import Connection, make_url, select, text
from sqlalchemy.orm import Session

from service import atomic_files, backup_tables, migrate
from service.artifacts import IDENTITY, ArtifactStore, file_digest
from service.backup_files import chunks, write_private
from service.errors import Conflict, NotFound, PreconditionFailed
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store import artifact_stores, checkpoints
from service.store.session import Database, make_engine
from service.store.tables import AuditHead, Job, PreparedFile, ReferenceFile, Restore, Version
from service.store.types import new_id
from service.store.versions import LIVE_STATES

FORMAT = "unlearning-backup/1"
MANIFEST, SQLITE, TABLES, ARTIFACTS = "manifest.json", "database.sqlite", "tables", "artifacts"


class Manifest(BaseModel):
    """What a backup says of itself. ``checkpoint``: the newest signed one in it; ``absent``: bytes that were gone.

    ``artifact_store``: the name of the store that the copied database calls its own.
    """

    format: str
    id: str
    made_at: datetime
    database: str
    revision: str
    log_origin: str
    log_size: int
    checkpoint: str | None
    files: dict[str, str]
    artifacts: list[str]
    absent: list[str]
    artifact_store: str | None = None


def make(settings: Settings, folder: Path) -> Manifest:
    """Write a backup into an empty or absent folder. Raises Conflict, OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty; name a new folder.", code="folder_not_empty")
    _refuse_wrong_store(settings)
    kind = make_url(settings.resolved_database_url).get_backend_name()
    if kind == "sqlite":
        files = _copy_sqlite(settings, folder)
    else:
        files = backup_tables.copy(settings.resolved_database_url, folder / TABLES, _read_facts)
    facts, wanted = _facts(folder, kind)
    kept, absent = _copy_artifacts(settings, folder, wanted)
    manifest = Manifest(
        format=FORMAT,
        id=new_id("bak"),
        made_at=datetime.now(UTC),
        database=kind,
        log_origin=settings.log_origin,
        files={str(path.relative_to(folder)): file_digest(path) for path in files},
        artifacts=kept,
        absent=absent,
        **facts,
    )
    write_private(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def check(folder: Path) -> Manifest:
    """Return the manifest of a backup whose every file is as it was written. Raises PreconditionFailed."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise PreconditionFailed(f"{folder} holds no whole backup: its manifest cannot be read.") from None
    if manifest.format != FORMAT:
        raise PreconditionFailed(f"The backup has the format {manifest.format!r}; this release reads {FORMAT}.")
    artifacts = ArtifactStore(str(folder / ARTIFACTS))
    wrong = [name for name, digest in manifest.files.items() if _digest_of(folder / name) != digest]
    wrong += [sha256 for sha256 in manifest.artifacts if not _is_whole(artifacts, sha256)]
    if wrong:
        raise PreconditionFailed(f"The backup is damaged: {', '.join(wrong[:10])}.", code="backup_damaged")
    return manifest


def restore(settings: Settings, folder: Path) -> Manifest:
    """Put a backup where there is nothing yet; what was erased since is still to be replayed. Raises Conflict."""
    manifest = check(folder)
    _refuse_unknown_revision(manifest)
    url = settings.resolved_database_url
    kind = make_url(url).get_backend_name()
    if kind != manifest.database:
        raise Conflict(f"The backup is of {manifest.database}; UNLEARN_DATABASE_URL names {kind}.")
    _refuse_unless_empty(url)
    target = ArtifactStore(settings.resolved_artifacts_url)
    _name_store(target, manifest.artifact_store)
    source = ArtifactStore(str(folder / ARTIFACTS))
    for sha256 in manifest.artifacts:
        path = source.local_path(sha256)
        if path is not None:
            target.put(path, sha256=sha256)
    if kind == "sqlite":
        _put_sqlite(folder, Path(str(make_url(url).database)), manifest)
    else:
        backup_tables.put(url, folder / TABLES, revision=manifest.revision, restore=_pending(manifest))
    migrate.upgrade(url)
    return manifest


def _refuse_wrong_store(settings: Settings) -> None:
    """Raise WrongStore where another store would be copied, whose every missing byte would count as gone."""
    database = Database.open(settings)
    try:
        OwnArtifacts(settings.resolved_artifacts_url, database).confirm()
    finally:
        database.dispose()


def _name_store(target: ArtifactStore, store_id: str | None) -> None:
    """Give the store the name that the backup's database knows. Raises Conflict where it belongs to another.

    A backup of a release that named no store leaves it to the first process: `service/own_artifacts.py`.
    """
    if store_id is None:
        return
    found = target.identity()
    if found is None and target.holds_bytes():
        raise Conflict(
            "The artifact store holds bytes and bears no name: set UNLEARN_ARTIFACTS_URL to an empty place, or, if it "
            f"is the lost database's own, bring its {IDENTITY} back."
        )
    target.identify(store_id)
    if target.identity() != store_id:
        raise Conflict("The artifact store belongs to another database; set UNLEARN_ARTIFACTS_URL to an empty place.")


def _facts(folder: Path, kind: str) -> tuple[dict[str, Any], list[str]]:
    """Return what the copied database says of itself, and the digests it needs."""
    if kind != "sqlite":
        found: tuple[dict[str, Any], list[str]] = json.loads((folder / TABLES / backup_tables.FACTS).read_text())
        return found[0], found[1]
    database = Database(make_engine(f"sqlite:///{(folder / SQLITE).resolve()}"))
    try:
        with database.engine.connect() as connection:
            return _read_facts(connection)
    finally:
        database.dispose()


def _read_facts(connection: Connection) -> tuple[dict[str, Any], list[str]]:
    with Session(connection) as session:
        latest = checkpoints.latest(session)
        wanted = set(session.scalars(select(Version.sha256).where(Version.state.in_(LIVE_STATES))))
        for column in (Job.candidate_sha256, ReferenceFile.sha256, PreparedFile.sha256):
            wanted |= {sha256 for sha256 in session.scalars(select(column)) if sha256}
        facts = {
            "revision": session.scalar(text("SELECT version_num FROM alembic_version")),
            "log_size": session.scalar(select(AuditHead.size)),
            "checkpoint": latest.note if latest else None,
            "artifact_store": own.store_id if (own := artifact_stores.own(session)) else None,
        }
        return facts, sorted(wanted)


def _copy_sqlite(settings: Settings, folder: Path) -> list[Path]:
    source = make_url(settings.resolved_database_url).database
    target = folder / SQLITE
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(sqlite3.connect(f"file:{source}?mode=rw", uri=True)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")  # one file, whose digest says all
    return [target]


def _copy_artifacts(settings: Settings, folder: Path, wanted: list[str]) -> tuple[list[str], list[str]]:
    """Copy what is there; bytes can have gone since the snapshot, when a request retired what they belong to."""
    source, target = ArtifactStore(settings.resolved_artifacts_url), ArtifactStore(str(folder / ARTIFACTS))
    kept, absent = [], []
    for sha256 in wanted:
        scratch = folder / "fetched"
        try:
            source.fetch(sha256, scratch)
        except NotFound:
            absent.append(sha256)
            continue
        kept.append(target.put(scratch, sha256=sha256))
        scratch.unlink()
    return kept, absent


def _refuse_unknown_revision(manifest: Manifest) -> None:
    known = ScriptDirectory.from_config(migrate.config("sqlite://"))
    if manifest.revision not in {script.revision for script in known.walk_revisions()}:
        raise Conflict(f"The backup has the schema {manifest.revision}, which this release does not know: install the "
                       "release that made it, or a newer one.")  # fmt: skip


def _refuse_unless_empty(url: str) -> None:
    if (database := make_url(url)).get_backend_name() == "sqlite":
        # A journal left of the lost database would be played into the restored one.
        for path in [f"{database.database}{end}" for end in ("", "-wal", "-shm", "-journal")]:
            if Path(path).exists():
                raise Conflict(f"{path} is there already; a backup is restored where there is nothing.")
        return
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            backup_tables.refuse_tables(connection)
    finally:
        engine.dispose()


def _put_sqlite(folder: Path, target: Path, manifest: Manifest) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it says that a replay is due: nobody may find it without.
    scratch = target.with_name(f"{target.name}.restoring")
    scratch.unlink(missing_ok=True)
    with (folder / SQLITE).open("rb") as source:
        write_private(scratch, chunks(source))
    database = Database(make_engine(f"sqlite:///{scratch.resolve()}"))
    try:
        migrate.upgrade(f"sqlite:///{scratch.resolve()}")
        with database.writing() as session:
            session.add(_pending(manifest))
    finally:
        database.dispose()
    with closing(sqlite3.connect(scratch)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    Path(f"{scratch}.migrating").unlink(missing_ok=True)
    try:
        atomic_files.name_once(scratch, target)
    except FileExistsError:
        raise Conflict(f"{target} has come into being meanwhile; end what made it, and delete it.") from None


def _pending(manifest: Manifest) -> Restore:
    return Restore(
        id=new_id("rst"),
        backup_id=manifest.id,
        backup_at=manifest.made_at,
        log_size=manifest.log_size,
        restored_at=datetime.now(UTC),
    )


def _digest_of(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:
        return None


def _is_whole(artifacts: ArtifactStore, sha256: str) -> bool:
    try:
        with artifacts.open(sha256) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256  # type: ignore[arg-type]
    except NotFound:
        return False
