"""The duty that brings erasures and the audit log's entries into the journal outside of the database."""

import time

import structlog
from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from service.deps import Parts
from service.duties import Duty
from service.erasure_journal import Journal, Segment, journal_key
from service.settings import Settings
from service.store import journal_heads, replays
from service.store.samples import one_of
from service.store.session import Database
from service.store.tables import (
    AuditCheckpoint,
    AuditEntry,
    AuditHead,
    AuditLink,
    ErasedToken,
    Restore,
    Suppression,
)
from service.store.types import new_id

EVERY_SECONDS = 5.0
# Entries that tell of no erasure may wait, so that a busy log does not make a segment at each turn.
PATIENCE_SECONDS = 60.0
MOST_ENTRIES, MOST_TOKENS = 5_000, 100_000
log = structlog.get_logger()


class Journalist:
    """What one process remembers between turns, so that a turn with nothing to do costs three small queries."""

    def __init__(self) -> None:
        self._wrote_at, self._end = 0.0, -1

    def run(self, parts: Parts) -> None:
        """Write what is new, if it is time. Raises OSError."""
        with parts.database.reading() as session:
            size = session.scalar(select(AuditHead.size)) or 0
            waits = session.scalar(select(ErasedToken.id).limit(1)) is not None
            # Whoever was given a checkpoint may hold a restored log against it.
            signed = min(session.scalar(select(func.max(AuditCheckpoint.size))) or 0, size)
        due = time.monotonic() - self._wrote_at >= PATIENCE_SECONDS
        if waits or signed > self._end or (due and size != self._end):
            self._end = write(parts.database, parts.settings)
            self._wrote_at = time.monotonic()


def write(database: Database, settings: Settings) -> int:
    """Write all that is new into the journal and return the log's size that it has now. Raises OSError."""
    journal = Journal(settings.resolved_erasure_journal_url, journal_key(settings.master_key_bytes))
    with database.reading() as session:
        known = journal_heads.known(session)  # before the journal is: what is written in between is no fault
        waits = replays.pending(session) is not None
    last = journal.last()
    if not waits and (last is None or journal.is_cut(known, last)):
        _begin(database, last)
    while True:
        with database.reading() as session:
            if session.scalar(select(func.count()).select_from(Restore).where(Restore.finished_at.is_(None))):
                return -1  # what the journal holds is to be replayed before anything is added
            first = _first(session, last)
            segment, written = _next(session, number=last.number + 1 if last else 1, first=first, last=last)
        if segment is None:
            return first
        try:
            segment = journal.append(segment)
        except FileExistsError:  # another process was faster: go on after it
            last = journal.last()
            continue
        with database.writing() as session:
            journal_heads.move(session, segment.head)
            # Not all up to the newest: one with a lower number may have been committed since, by a slower transaction.
            session.execute(delete(ErasedToken).where(one_of(session, ErasedToken.id, written)))
        log.info("erasures.journaled", segment=segment.number, entries=len(segment.entries), count=len(segment.tokens))
        last = segment


def _begin(database: Database, last: Segment | None) -> None:
    """Put all that was ever erased into a journal that is empty, or that was cut: what it lacks nobody knows."""
    if last is not None:
        log.error("erasures.journal_cut", newest=last.number)
    tokens = select(Suppression.dataset_id, Suppression.token)
    waits = exists().where(ErasedToken.dataset_id == Suppression.dataset_id, ErasedToken.token == Suppression.token)
    missing = tokens.where(~waits).order_by(Suppression.dataset_id, Suppression.token)
    with database.writing() as session:
        session.execute(insert(ErasedToken).from_select(["dataset_id", "token"], missing))
        if last is not None:
            journal_heads.move(session, last.head, back=True)


def _first(session: Session, last: Segment | None) -> int:
    """Return the entry from which to go on: the journal's end, or where a restored log left off."""
    if last is None:
        return 0
    leaf = session.scalar(select(AuditEntry.leaf_hash).where(AuditEntry.seq == last.end - 1))
    if last.end == 0 or leaf == last.last_leaf:
        return last.end
    return session.scalar(select(Restore.log_size).order_by(Restore.restored_at.desc()).limit(1)) or 0


def _next(session: Session, *, number: int, first: int, last: Segment | None) -> tuple[Segment | None, list[int]]:
    """Return the next segment, and the rows of tokens in it.

    Entries are read first, and written in no earlier segment than any token that was there by then: whoever has the
    log up to an entry has all that was erased before it.
    """
    entries = session.scalars(
        select(AuditEntry).where(AuditEntry.seq >= first).order_by(AuditEntry.seq).limit(MOST_ENTRIES)
    ).all()
    links: dict[int, list[tuple[str, str]]] = {}
    if entries:
        between = AuditLink.seq.between(entries[0].seq, entries[-1].seq)
        for kind, ref, seq in session.execute(select(AuditLink.kind, AuditLink.ref, AuditLink.seq).where(between)):
            links.setdefault(seq, []).append((kind, ref))
    tokens = session.scalars(select(ErasedToken).order_by(ErasedToken.id).limit(MOST_TOKENS)).all()
    if len(tokens) == MOST_TOKENS:
        entries = []  # there may be more of them
    if not entries and not tokens:
        return None, []
    end = entries[-1].seq + 1 if entries else first
    leaf = entries[-1].leaf_hash if entries else (last.last_leaf if last else "")
    made = [_entry(entry, sorted(links.get(entry.seq, []))) for entry in entries]
    listed = [(row.dataset_id, bytes(row.token).hex()) for row in tokens]
    named = {"journal": last.journal if last else new_id("jnl"), "previous": last.mac if last else ""}
    segment = Segment(number=number, first=first, end=end, last_leaf=leaf, entries=made, tokens=listed, **named)
    return segment, [row.id for row in tokens]


def _entry(entry: AuditEntry, links: list[tuple[str, str]]) -> dict[str, object]:
    names = ("seq", "time", "actor", "action", "subject", "payload", "leaf_hash")
    return {**{name: getattr(entry, name) for name in names}, "links": links}


DUTY = Duty(name="erasure_journal", every_seconds=EVERY_SECONDS, run=Journalist().run)
