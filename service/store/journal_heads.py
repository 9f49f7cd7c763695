"""Which segment of the erasure journal this database has seen written last, so that a journal cut short is noticed."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.erasure_journal import Head
from service.store.samples import dialect_of
from service.store.tables import JournalHead

_HELD = select(JournalHead).with_for_update()


def known(session: Session) -> Head | None:
    """Return the newest segment that this database knows of."""
    row = session.scalar(select(JournalHead))
    return None if row is None else Head(journal=row.journal, number=row.number, mac=row.mac)


def move(session: Session, head: Head, *, back: bool = False) -> None:
    """Note a segment that was written, unless a newer one of the same journal is known; with ``back``, even then."""
    row = session.scalar(_HELD)
    if row is None:
        # Each dialect's own insert: of two processes that write first, one waits here for the other's row.
        make: Any = postgresql.insert if dialect_of(session) == "postgresql" else sqlite.insert
        nothing = make(JournalHead).values(id=1, journal="", number=0, mac="")
        session.execute(nothing.on_conflict_do_nothing(index_elements=["id"]))
        row = session.scalars(_HELD).one()
    if row.journal == head.journal and row.number > head.number and not back:
        return
    row.journal, row.number, row.mac = head.journal, head.number, head.mac
