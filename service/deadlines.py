"""When a deletion request is due: one calendar month, in the controller's time zone. Pure.

Regulation (EU) 2016/679, Article 12(3): one month from receipt, which may be extended by two further months. A period
of months ends with the day of the same date, or with the last of a month that has none (Regulation (EEC, Euratom)
1182/71, Article 3(2)(c)).
"""

import calendar
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

MAX_EXTENSION_MONTHS = 2
# Shares of the time to the due date, in percent, at which those who follow a request are told.
MARKS = (50, 80, 100)


def add_months(moment: datetime, months: int) -> datetime:
    """Return the same day ``months`` later, clamped to the month's end (31 Jan -> 28 or 29 Feb)."""
    index = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(index, 12)
    month += 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))


def due(received_at: datetime, zone: str, *, extended_by: int = 0) -> datetime:
    """Return the end of the day one calendar month, and those it is extended by, after receipt, as UTC.

    The day is the zone's: its last second is given.
    """
    local = add_months(received_at.astimezone(ZoneInfo(zone)).replace(tzinfo=None), 1 + extended_by)
    # fold=1: where clocks are put back over midnight, the day ends when 23:59:59 comes for the second time; where they
    # are put forward over it, at the last second before that.
    end = datetime.combine(local.date(), time(23, 59, 59, fold=1), tzinfo=ZoneInfo(zone))
    return end.astimezone(UTC)


def mark(received_at: datetime, due_at: datetime, percent: int) -> datetime:
    """Return when so many percent of the time between receipt and due date have gone by."""
    return received_at + (due_at - received_at) * percent / 100


def reached(received_at: datetime, due_at: datetime, *, at: datetime) -> int:
    """Return the highest of `MARKS` that has gone by; 0 before the first. 100 says that the due date is missed."""
    return max((percent for percent in MARKS if mark(received_at, due_at, percent) < at), default=0)


def next_mark(received_at: datetime, due_at: datetime, *, after: int) -> datetime | None:
    """Return when the mark after one of so many percent goes by; None after the last."""
    percent = next((percent for percent in MARKS if percent > after), None)
    return None if percent is None else mark(received_at, due_at, percent)


def is_overdue(due_at: datetime | None, *, at: datetime) -> bool:
    """Say whether the due date lies before the moment."""
    return due_at is not None and due_at < at
