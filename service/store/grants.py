"""What a role of PostgreSQL needs to run the service, and no right beyond: it cannot change what the log holds."""

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.orm import Session

from service.store.tables import AuditCheckpoint, AuditEntry, AuditLink, Base

APPEND_ONLY = frozenset(each.__tablename__ for each in (AuditEntry, AuditLink, AuditCheckpoint))
_MIGRATED = "alembic_version"


def statements(role: str) -> list[str]:
    """Return what the tables' owner executes after each migration."""
    name = PGDialect().identifier_preparer.quote_identifier(role)  # type: ignore[no-untyped-call]
    found = [f"GRANT USAGE ON SCHEMA public TO {name}", f"GRANT SELECT ON {_MIGRATED} TO {name}"]
    for table in sorted(Base.metadata.tables):
        rights = "SELECT, INSERT" if table in APPEND_ONLY else "SELECT, INSERT, UPDATE, DELETE"
        found += [f"REVOKE ALL ON {table} FROM {name}", f"GRANT {rights} ON {table} TO {name}"]
    return [*found, f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}"]


def grant(session: Session, role: str) -> None:
    """Give the role these rights and take all others from it."""
    for statement in statements(role):
        session.execute(text(statement.replace(":", r"\:")))
