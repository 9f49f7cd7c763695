"""How far this process's clock is from the database's, which all processes share."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.store.types import now


def seconds(session: Session) -> float:
    """Return the database's time less this process's; 0 for SQLite, which has the clock of whoever asks it."""
    if session.get_bind().dialect.name != "postgresql":
        return 0.0
    before = now()
    theirs = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    ours = before + (now() - before) / 2
    return float((theirs - ours).total_seconds())
