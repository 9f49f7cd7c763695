"""Which segment of the erasure journal this database has seen written last, so that a journal cut short is noticed."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.erasure_journal import Head
from service.store.tables import JournalHead


def known(session: Session) -> Head | None:
    """Return the newest segment that this database knows of."""
    row = session.scalar(select(JournalHead))
    return None if row is None else Head(journal=row.journal, number=row.number, mac=row.mac)


def move(session: Session, head: Head, *, back: bool = False) -> None:
    """Note a segment that was written, unless a newer one of the same journal is known; with ``back``, even then."""
    row = session.scalar(select(JournalHead).with_for_update())
    if row is None:
        row = JournalHead(id=1, journal="", number=0, mac="")
        session.add(row)
    elif row.journal == head.journal and row.number > head.number and not back:
        return
    row.journal, row.number, row.mac = head.journal, head.number, head.mac
