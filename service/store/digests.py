"""Turns at a digest: whoever deletes the bytes and whoever names them in a row must not do so at once."""

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

# Any number that no other pair of keys of this database begins with.
_SPACE = 7_214


def hold(session: Session, sha256: str) -> None:
    """Have this digest to oneself until the commit; to be called before the transaction locks anything else.

    Rows cannot be locked for this, since an orphan has none. SQLite has one writer anyway, from its first statement on.
    """
    session.execute(select(1))
    if session.get_bind().dialect.name == "postgresql":
        part = int.from_bytes(bytes.fromhex(sha256[:8]), "big", signed=True)
        session.execute(select(func.pg_advisory_xact_lock(_SPACE, part)))


def hold_all(session: Session, sha256s: Iterable[str]) -> None:
    """Have all of these digests, in the one order in which nobody waits for somebody who waits for them."""
    for sha256 in sorted(set(sha256s)):
        hold(session, sha256)
