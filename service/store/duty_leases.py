"""One process at a time sees to a duty."""

from datetime import timedelta

from sqlalchemy import or_, update
from sqlalchemy.orm import Session

from service.store.tables import DutyLease
from service.store.types import now


def take(session: Session, name: str, *, owner: str, seconds: float) -> bool:
    """Take or renew the lease; False while somebody else holds it.

    One that ends later than any taken now was taken before the clock was set back, and is free.
    """
    moment = now()
    until = moment + timedelta(seconds=seconds)
    impossible = DutyLease.until > moment + timedelta(seconds=2 * seconds)
    free = or_(DutyLease.owner == owner, DutyLease.until <= moment, impossible)
    taken = update(DutyLease).where(DutyLease.name == name, free).values(owner=owner, until=until)
    if session.execute(taken.returning(DutyLease.name)).first() is not None:
        return True
    if session.get(DutyLease, name) is not None:
        return False
    session.add(DutyLease(name=name, owner=owner, until=until))
    return True


def give_back(session: Session, owner: str, name: str) -> None:
    """Let others take at once what the owner held; a duty it did not hold stays whose it is."""
    held = update(DutyLease).where(DutyLease.name == name, DutyLease.owner == owner)
    session.execute(held.values(until=now()))
