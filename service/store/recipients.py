"""Who fetched bytes of which version."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.store.samples import dialect_of
from service.store.tables import Recipient, Version
from service.store.types import now


def note(session: Session, version: Version, principal_id: str) -> None:
    """Count a download; to be called while the version is held, so that a withdrawal sees it or refuses it."""
    moment = now()
    # Each dialect's own insert: two downloads by one key in one instant must both count.
    make: Any = postgresql.insert if dialect_of(session) == "postgresql" else sqlite.insert
    row = {"version_id": version.id, "principal_id": principal_id, "downloads": 1}
    statement = make(Recipient).values(**row, first_at=moment, last_at=moment)
    again = {"downloads": Recipient.downloads + 1, "last_at": moment}
    session.execute(statement.on_conflict_do_update(index_elements=["version_id", "principal_id"], set_=again))


def of_version(session: Session, version_id: str) -> list[Recipient]:
    """Return who fetched bytes of the version, the first one first."""
    query = select(Recipient).where(Recipient.version_id == version_id)
    return list(session.scalars(query.order_by(Recipient.first_at, Recipient.principal_id)))
