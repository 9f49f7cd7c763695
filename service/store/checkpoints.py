"""Signed checkpoints of the audit log: each one kept, each one an extension of the one before."""

from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound, Unavailable
from service.evidence import merkle, notes
from service.evidence.merkle import InvalidProof
from service.evidence.notes import Checkpoint, InvalidNote
from service.evidence.signing import Signer
from service.settings import Settings
from service.store import audit_tree, signing_keys
from service.store.audit_tree import LogDamaged, consistency, inclusion
from service.store.session import Database
from service.store.tables import AuditCheckpoint
from service.store.types import now

__all__ = ["SignedCheckpoint", "at", "consistency", "fresh", "inclusion", "latest", "note_at", "sign_now"]
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class SignedCheckpoint:
    """The log's first ``size`` entries, their Merkle ``root``, and the signed ``note`` that says so (C2SP)."""

    size: int
    root: bytes
    note: str
    key_id: str
    time: datetime


def latest(session: Session) -> SignedCheckpoint | None:
    """Return the checkpoint that covers most."""
    return _view(session.scalar(select(AuditCheckpoint).order_by(AuditCheckpoint.size.desc()).limit(1)))


def at(session: Session, size: int) -> SignedCheckpoint:
    """Return the checkpoint of this size. Raises NotFound."""
    found = _view(session.get(AuditCheckpoint, size))
    if found is None:
        raise NotFound(f"No checkpoint was signed at size {size}.", code="checkpoint_not_found")
    return found


def note_at(session: Session, size: int) -> str | None:
    """Return the note of the checkpoint of this size, if one was signed."""
    return session.scalar(select(AuditCheckpoint.note).where(AuditCheckpoint.size == size))


def refuse_unreached(session: Session, settings: Settings, note: str) -> None:
    """Raise Conflict unless the log goes as far as a checkpoint that was kept elsewhere, and is the one it speaks of.

    A key of the log's own has to have signed it. What this session records is not counted: it is appended at its end.
    """
    try:
        found = notes.open_checkpoint(note, signing_keys.known_note_keys(session, settings))
    except InvalidNote as fault:
        raise Conflict(f"The checkpoint cannot be used: {fault}.", code="checkpoint_refused") from None
    size = audit_tree.integrate(session)
    if size < found.size:
        raise Conflict(
            f"The log reaches {size} entries with what the journal holds, and a checkpoint of {found.size} was signed. "
            "Either the journal's newest segments are missing: bring them back. Or the checkpoint was signed in the "
            "last minute before the loss, and its newest entries were lost with the database: give an earlier "
            "checkpoint, or none. Nothing was replayed.",
            code="erasure_journal_cut",
        )
    if audit_tree.root(session, found.size) != found.root:
        raise Conflict("The log is not the one that the checkpoint speaks of.", code="journal_of_another_log")


def _view(row: AuditCheckpoint | None) -> SignedCheckpoint | None:
    if row is None:
        return None
    return SignedCheckpoint(size=row.size, root=row.root, note=row.note, key_id=row.key_id, time=row.time)


def sign_now(session: Session, by: Settings | Signer) -> SignedCheckpoint:
    """Return a checkpoint over every entry that is committed; where nothing was added since the last, that one.

    Needs a writing session, best a short one of its own: it holds the tree until that ends. What this very
    transaction records is not covered, since it is appended at its end. Raises LogDamaged if the log is not an
    extension of what was signed last, Unavailable if this process cannot sign.
    """
    size = audit_tree.integrate(session)
    last = latest(session)
    if last is not None and last.size == size:
        return last
    signer = by if isinstance(by, Signer) else signing_keys.current(session, by)
    try:
        root = audit_tree.root(session, size)
        if last is not None:
            _check_extends(session, last, origin=signer.name, size=size, root=root)
    except LogDamaged as damage:
        log.error("checkpoint.refused", size=size, reason=damage.detail)
        raise
    note = notes.sign_note(Checkpoint(origin=signer.name, size=size, root=root).text, signer)
    row = AuditCheckpoint(size=size, root=root, note=note, key_id=signer.key_id, time=now())
    session.add(row)
    session.flush()
    return SignedCheckpoint(size=size, root=root, note=note, key_id=row.key_id, time=row.time)


def _check_extends(session: Session, last: SignedCheckpoint, *, origin: str, size: int, root: bytes) -> None:
    """Raise LogDamaged unless the tree begins with what the last checkpoint signed."""
    signed = _signed(session, last)
    if signed.origin != origin:
        raise Unavailable(
            f"The log was signed as {signed.origin!r} and is now called {origin!r}; a log's origin never changes.",
            code="log_origin_changed",
        )
    if size < signed.size:
        raise LogDamaged(f"The log has {size} entries, and {signed.size} were signed: entries are gone.")
    if signed.size == 0:
        return
    path = audit_tree.consistency(session, signed.size, size)
    try:
        merkle.verify_consistency(old=signed.size, new=size, old_root=signed.root, new_root=root, path=path)
    except InvalidProof as fault:
        raise LogDamaged(f"The log is not an extension of the one signed at size {signed.size}: {fault}.") from None


def _signed(session: Session, last: SignedCheckpoint) -> Checkpoint:
    origin = last.note.partition("\n")[0]
    try:
        signed = notes.open_checkpoint(last.note, signing_keys.note_keys(session, origin))
    except InvalidNote as fault:
        raise LogDamaged(f"The last checkpoint is not one this service signed: {fault}.") from None
    if (signed.size, signed.root) != (last.size, last.root):
        raise LogDamaged(f"The last checkpoint says {signed.size} entries in its note and {last.size} beside it.")
    return signed


def fresh(database: Database, settings: Settings) -> SignedCheckpoint:
    """Return a checkpoint over every committed entry, signing one if there is none. Costs a query where there is."""
    with database.reading() as session:
        found = latest(session)
        if found is not None and found.size == audit_tree.head(session):
            return found
    if found is None:
        # Before anything is signed, so that the first checkpoint covers the entry that names its key.
        with database.writing() as session:
            signing_keys.current(session, settings)
    with database.writing() as session:
        return sign_now(session, settings)
