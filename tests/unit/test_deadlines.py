"""A request is due one calendar month after receipt, at the end of the day where the controller is."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.deadlines import add_months, due


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
    ],
)
def test_the_day_ends_where_the_controller_is(received: str, zone: str, expected: str) -> None:
    assert due(datetime.fromisoformat(received), zone) == datetime.fromisoformat(expected)


START = datetime.fromisoformat("1970-01-02")


@given(st.datetimes(START, START.replace(year=2900)), st.integers(-14 * 60, 14 * 60))
def test_the_zone_of_the_stated_moment_changes_nothing(moment: datetime, minutes: int) -> None:
    utc = moment.replace(tzinfo=UTC)
    elsewhere = utc.astimezone(timezone(timedelta(minutes=minutes)))
    assert due(elsewhere, "Europe/Paris") == due(utc, "Europe/Paris")
    assert timedelta(days=28) <= due(utc, "UTC") - utc <= timedelta(days=32)
