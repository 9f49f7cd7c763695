"""When a deletion request is due: one calendar month, in the controller's time zone. Pure."""

import calendar
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo


def add_months(moment: datetime, months: int) -> datetime:
    """Return the same day ``months`` later, clamped to the month's end (31 Jan -> 28 or 29 Feb)."""
    index = moment.year * 12 + moment.month - 1 + months
    year, month = divmod(index, 12)
    month += 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))


def due(received_at: datetime, zone: str) -> datetime:
    """Return the end of the day one calendar month after ``received_at`` in the zone, as UTC."""
    local = add_months(received_at.astimezone(ZoneInfo(zone)).replace(tzinfo=None), 1)
    end = datetime.combine(local.date(), time(23, 59, 59), tzinfo=ZoneInfo(zone))
    return end.astimezone(UTC)
