"""The duty that brings erasures and the audit log's entries into the journal outside of the database."""

import time

import structlog
from sqlalchemy import delete, exists, func, insert, select
from sqlalchemy.orm import Session

from service.deps import Parts
from service.duties import Duty
from service.erasure_journal import Journal, Segment, journal_key
from service.settings import Settings
from service.store.samples import one_of
from service.store.session import Database
from service.store.tables import AuditEntry, AuditHead, AuditLink, ErasedToken, Restore, Suppression

EVERY_SECONDS = 5.0
# Entries that tell of no erasure may wait, so that a busy log does not make a segment at each turn.
PATIENCE_SECONDS = 60.0
MOST_ENTRIES, MOST_TOKENS = 5_000, 100_000
log = structlog.get_logger()


class Journalist:
    """What one process remembers between turns, so that a turn with nothing to do costs two small queries."""

    def __init__(self) -> None:
        self._wrote_at, self._end = 0.0, -1

    def run(self, parts: Parts) -> None:
        """Write what is new, if it is time. Raises OSError."""
        with parts.database.reading() as session:
            size = session.scalar(select(AuditHead.size)) or 0
            waits = session.scalar(select(ErasedToken.id).limit(1)) is not None
        due = time.monotonic() - self._wrote_at >= PATIENCE_SECONDS
        if waits or (due and size != self._end):
            self._end = write(parts.database, parts.settings)
            self._wrote_at = time.monotonic()


def write(database: Database, settings: Settings) -> int:
    """Write all that is new into the journal and return the log's size that it has now. Raises OSError."""
    journal = Journal(settings.resolved_erasure_journal_url, journal_key(settings.master_key_bytes))
    last = journal.last()
    if last is None:
        _begin(database)
    while True:
        with database.reading() as session:
            if session.scalar(select(func.count()).select_from(Restore).where(Restore.finished_at.is_(None))):
                return -1  # what the journal holds is to be replayed before anything is added
            first = _first(session, last)
            segment, written = _next(session, number=last.number + 1 if last else 1, first=first, last=last)
        if segment is None:
            return first
        try:
            journal.append(segment)
        except FileExistsError:  # another process was faster: go on after it
            last = journal.last()
            continue
        with database.writing() as session:
            # Not all up to the newest: one with a lower number may have been committed since, by a slower transaction.
            session.execute(delete(ErasedToken).where(one_of(session, ErasedToken.id, written)))
        log.info("erasures.journaled", segment=segment.number, entries=len(segment.entries), count=len(segment.tokens))
        last = segment


def _begin(database: Database) -> None:
    """Put all that was ever erased into a journal that is empty: it may be another one than was written before."""
    tokens = select(Suppression.dataset_id, Suppression.token)
    waits = exists().where(ErasedToken.dataset_id == Suppression.dataset_id, ErasedToken.token == Suppression.token)
    missing = tokens.where(~waits).order_by(Suppression.dataset_id, Suppression.token)
    with database.writing() as session:
        session.execute(insert(ErasedToken).from_select(["dataset_id", "token"], missing))


def _first(session: Session, last: Segment | None) -> int:
    """Return the entry from which to go on: the journal's end, or where a restored log left off."""
    if last is None:
        return 0
    leaf = session.scalar(select(AuditEntry.leaf_hash).where(AuditEntry.seq == last.end - 1))
    if last.end == 0 or leaf == last.last_leaf:
        return last.end
    return session.scalar(select(Restore.log_size).order_by(Restore.restored_at.desc()).limit(1)) or 0


def _next(session: Session, *, number: int, first: int, last: Segment | None) -> tuple[Segment | None, list[int]]:
    """Return the next segment, and the rows of tokens in it; entries are read first, so no token is behind."""
    entries = session.scalars(
        select(AuditEntry).where(AuditEntry.seq >= first).order_by(AuditEntry.seq).limit(MOST_ENTRIES)
    ).all()
    links: dict[int, list[tuple[str, str]]] = {}
    if entries:
        between = AuditLink.seq.between(entries[0].seq, entries[-1].seq)
        for kind, ref, seq in session.execute(select(AuditLink.kind, AuditLink.ref, AuditLink.seq).where(between)):
            links.setdefault(seq, []).append((kind, ref))
    tokens = session.scalars(select(ErasedToken).order_by(ErasedToken.id).limit(MOST_TOKENS)).all()
    if not entries and not tokens:
        return None, []
    end = entries[-1].seq + 1 if entries else first
    leaf = entries[-1].leaf_hash if entries else (last.last_leaf if last else "")
    made = [_entry(entry, sorted(links.get(entry.seq, []))) for entry in entries]
    listed = [(row.dataset_id, bytes(row.token).hex()) for row in tokens]
    segment = Segment(number=number, first=first, end=end, last_leaf=leaf, entries=made, tokens=listed)
    return segment, [row.id for row in tokens]


def _entry(entry: AuditEntry, links: list[tuple[str, str]]) -> dict[str, object]:
    names = ("seq", "time", "actor", "action", "subject", "payload", "leaf_hash")
    return {**{name: getattr(entry, name) for name in names}, "links": links}


DUTY = Duty(name="erasure_journal", every_seconds=EVERY_SECONDS, run=Journalist().run)
