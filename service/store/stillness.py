"""Whether anything happened since one last looked, so that who waits for news need not look everywhere for it again.

Every change of a state appends an entry to the audit log in its own transaction, so the log's length tells. Leases,
signs of life and progress append none, and are no news.
"""

from sqlalchemy import select

from service.store.session import Database
from service.store.tables import AuditHead, table_of

_SIZE = select(table_of(AuditHead).c.size)


class Watch:
    """For one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._size: int | None = None

    def changed(self) -> bool:
        """Say whether the log has grown since this was last asked; True when it is first asked."""
        with self._database.looking_up() as connection:
            size = connection.scalar(_SIZE)
        before, self._size = self._size, size
        return size is None or size != before
