"""Deliveries that a clock put off which was ahead and has been set right since: they wait as long as they were to.

Moments are written by the clock of the process that writes them. Two of them cannot be in the future: when a delivery
was last attempted, and when one that nobody attempted yet is to be sent.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from service.store.session import Database
from service.store.tables import WebhookDelivery
from service.store.types import now

AT_ONCE = 1000


def set_right(database: Database, *, slack: timedelta, longest: timedelta) -> int:
    """Move deliveries that wait for a moment a wrong clock wrote, and return how many; one statement where none does.

    ``slack``: how far the clocks of processes may lie apart. ``longest``: no delivery is put off for longer than this.
    """
    with database.looking_up() as connection:
        misdated = select(WebhookDelivery.id).where(_misdated(now(), slack, longest)).limit(1)
        if connection.execute(misdated).first() is None:
            return 0
    with database.writing() as session:
        return _move(session, slack, longest)


def _misdated(moment: datetime, slack: timedelta, longest: timedelta) -> ColumnElement[bool]:
    row = WebhookDelivery
    return and_(
        row.next_at.is_not(None),
        or_(
            and_(row.attempts == 0, row.next_at > moment + slack),
            row.attempted_at > moment + slack,
            row.next_at > moment + longest + slack,
        ),
    )


def _move(session: Session, slack: timedelta, longest: timedelta) -> int:
    moment = now()
    rows = session.scalars(
        select(WebhookDelivery)
        .where(_misdated(moment, slack, longest))
        .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        .limit(AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    for place, row in enumerate(rows):
        in_order = timedelta(microseconds=len(rows) - place)
        row.next_at = moment + _wait(row, moment, longest) - in_order
        if row.attempted_at is not None:
            row.attempted_at = min(row.attempted_at, moment)
    return len(rows)


def _wait(row: WebhookDelivery, moment: datetime, longest: timedelta) -> timedelta:
    """Return how long it was to wait after its last attempt: nothing for one that was not attempted yet."""
    if row.attempts == 0 or row.attempted_at is None or row.next_at is None or row.attempted_at <= moment:
        return timedelta(0)
    return min(max(row.next_at - row.attempted_at, timedelta(0)), longest)
