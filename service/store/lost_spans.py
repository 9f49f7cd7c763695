"""What the log tells of a past that a restore undid: entries that a replay appended, of work that the backup lacks.

They stay in the log. What became of a request in this store is told by the others: whatever of it had been done after
the backup was made was done again, or was not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store import audit
from service.store.tables import AuditEntry, Restore


@dataclass(frozen=True, kw_only=True)
class Span:
    """The numbers of the entries that one restore's replay appended."""

    restore_id: str
    numbers: range


def spans(session: Session) -> list[Span]:
    """Return those of each restore that this store came through; a restore that a later one undid is in none."""
    rows = session.scalars(select(Restore).where(Restore.finished_at.is_not(None)).order_by(Restore.log_size))
    return [
        Span(restore_id=row.id, numbers=range(row.log_size, row.log_size + (row.found or {}).get("entries", 0)))
        for row in rows
    ]


def outside(rows: Iterable[AuditEntry], of: Sequence[Span]) -> list[AuditEntry]:
    """Return the entries that tell of what this store holds, in the order given."""
    return [row for row in rows if not any(row.seq in span.numbers for span in of)]


def explained(session: Session, rows: Iterable[AuditEntry], by: Sequence[Span]) -> list[AuditEntry]:
    """Return the entries ``service.restored`` that say why some of the rows tell of a past that was undone."""
    numbers = [row.seq for row in rows]
    undone = [span for span in by if any(seq in span.numbers for seq in numbers)]
    return [
        entry
        for span in undone
        for entry in audit.find(
            session, after=span.numbers.stop - 1, actions=("service.restored",), subject=f"restore/{span.restore_id}"
        )
    ]
