"""A request is due one calendar month after receipt, at the end of the day where the controller is."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.deadlines import MARKS, add_months, due, is_overdue, mark, next_mark, reached


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ("2025-01-31T10:00", "2025-02-28T10:00"),
        ("2024-01-31T10:00", "2024-02-29T10:00"),
        ("2024-02-29T10:00", "2024-03-29T10:00"),
        ("2024-05-31T10:00", "2024-06-30T10:00"),
        ("2024-12-15T10:00", "2025-01-15T10:00"),
    ],
)
def test_a_month_later_is_the_same_day_or_the_last_of_the_month(received: str, expected: str) -> None:
    assert add_months(datetime.fromisoformat(received), 1) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("received", "zone", "expected"),
    [
        ("2024-01-31T12:00:00+00:00", "UTC", "2024-02-29T23:59:59+00:00"),
        # 23:30 UTC is the next day in Berlin already, and summer time begins in between.
        ("2024-02-29T23:30:00+00:00", "Europe/Berlin", "2024-04-01T21:59:59+00:00"),
        # 03:00 UTC is still the day before in Los Angeles.
        ("2024-01-01T03:00:00+00:00", "America/Los_Angeles", "2024-02-01T07:59:59+00:00"),
        ("2023-12-31T23:59:59+00:00", "Pacific/Kiritimati", "2024-02-01T09:59:59+00:00"),
        # Clocks are put back at midnight, so that the last hour of 16 February 2019 comes twice.
        ("2019-01-16T12:00:00+00:00", "America/Sao_Paulo", "2019-02-17T02:59:59+00:00"),
    ],
)
def test_the_day_ends_where_the_controller_is(received: str, zone: str, expected: str) -> None:
    assert due(datetime.fromisoformat(received), zone) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("received", "months", "expected"),
    [
        ("2024-01-31T12:00:00+00:00", 1, "2024-03-31T23:59:59+00:00"),
        ("2024-01-31T12:00:00+00:00", 2, "2024-04-30T23:59:59+00:00"),
        ("2023-11-30T12:00:00+00:00", 2, "2024-02-29T23:59:59+00:00"),
    ],
)
def test_an_extension_counts_from_receipt_and_not_from_the_due_date(received: str, months: int, expected: str) -> None:
    assert due(datetime.fromisoformat(received), "UTC", extended_by=months) == datetime.fromisoformat(expected)


START = datetime.fromisoformat("1970-01-02")


@given(st.datetimes(START, START.replace(year=2900)), st.integers(-14 * 60, 14 * 60))
def test_the_zone_of_the_stated_moment_changes_nothing(moment: datetime, minutes: int) -> None:
    utc = moment.replace(tzinfo=UTC)
    elsewhere = utc.astimezone(timezone(timedelta(minutes=minutes)))
    assert due(elsewhere, "Europe/Paris") == due(utc, "Europe/Paris")
    assert timedelta(days=28) <= due(utc, "UTC") - utc <= timedelta(days=32)


ZONES = [
    "UTC", "Europe/Berlin", "Europe/London", "Asia/Beirut", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe",
    "Pacific/Kiritimati", "Pacific/Apia", "Pacific/Chatham", "America/Los_Angeles", "America/St_Johns",
    "America/Sao_Paulo", "America/Havana", "America/Nuuk", "America/Santiago", "Africa/Casablanca", "Etc/GMT+12",
]  # fmt: skip


def _day_months_later(day: date, months: int) -> date:
    """Walk the calendar day by day: the last day of the month in question that is not past the day's number."""
    found, passed = day, 0
    candidate = day
    while True:
        candidate += timedelta(days=1)
        passed += candidate.day == 1
        if passed > months:
            return found
        if passed == months and candidate.day <= day.day:
            found = candidate


def _last_second(day: date, zone: ZoneInfo) -> datetime:
    """Search all instants around the day for the last one at which the zone's calendar does not show a later day."""
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) - 16 * 3600
    found = start
    for step in (900, 1):
        window = range(found, found + (56 * 3600 if step == 900 else 900), step)
        found = max(second for second in window if datetime.fromtimestamp(second, zone).date() <= day)
    return datetime.fromtimestamp(found, UTC)


@given(
    st.datetimes(START, START.replace(year=2037), timezones=st.just(UTC)),
    st.sampled_from(ZONES),
    st.integers(0, 2),
)
@example(datetime(2024, 1, 31, 12, tzinfo=UTC), "Pacific/Kiritimati", 0)
@example(datetime(2019, 1, 16, 12, tzinfo=UTC), "America/Sao_Paulo", 0)
@example(datetime(2023, 12, 30, 12, tzinfo=UTC), "America/Nuuk", 2)  # 30 March 2024 ended at 23:00 there
@example(datetime(2011, 11, 30, 12, tzinfo=UTC), "Pacific/Apia", 0)  # 30 December 2011 was left out there
def test_the_due_date_is_the_last_second_a_walk_through_the_calendar_finds(
    received: datetime, name: str, extended_by: int
) -> None:
    zone = ZoneInfo(name)
    day = _day_months_later(received.astimezone(zone).date(), 1 + extended_by)
    assert due(received, name, extended_by=extended_by) == _last_second(day, zone)


def test_the_marks_go_by_in_order_and_the_last_is_the_due_date() -> None:
    received, due_at = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 11, tzinfo=UTC)
    assert [mark(received, due_at, percent) for percent in MARKS] == [
        datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC), due_at,
    ]  # fmt: skip
    second = timedelta(seconds=1)
    for percent, before in zip(MARKS, (0, *MARKS), strict=False):
        moment = mark(received, due_at, percent)
        assert reached(received, due_at, at=moment) == before
        assert reached(received, due_at, at=moment + second) == percent
        assert next_mark(received, due_at, after=before) == moment
    assert next_mark(received, due_at, after=100) is None


def test_a_due_date_is_missed_only_after_it() -> None:
    due_at = datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert not is_overdue(due_at, at=due_at)
    assert is_overdue(due_at, at=due_at + timedelta(seconds=1))
    assert not is_overdue(None, at=due_at)
