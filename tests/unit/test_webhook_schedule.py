"""Waits between attempts grow as the standard recommends, with jitter; a receiver may ask for more, not less."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings
from service.webhooks import schedule

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = 3600.0


def _middle(low: float, high: float) -> float:
    return (low + high) / 2


def test_the_schedule_is_the_one_the_standard_recommends(tmp_path: Path) -> None:
    waits = Settings(data_dir=tmp_path).webhook_waits
    assert list(waits) == [5, 300, 1800, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]
    found = [schedule.wait(waits, attempts, uniform=_middle) for attempts in range(1, 12)]
    assert found == [*waits, None, None]


def test_the_jitter_stays_within_a_fifth() -> None:
    found = {schedule.wait((100.0,), 1) for _ in range(200)}
    assert len(found) > 100
    assert all(each is not None and 80 <= each <= 120 for each in found)


@pytest.mark.parametrize(("asked", "expected"), [(None, 5), (0, 5), (1, 5), (60, 60), (1e9, 86_400)])
def test_a_receiver_may_ask_for_more_time_up_to_a_day(asked: float | None, expected: float) -> None:
    assert schedule.wait((5.0,), 1, asked=asked, uniform=_middle) == expected


def test_the_last_attempt_stays_the_last_whatever_is_asked() -> None:
    assert schedule.wait((5.0,), 2, asked=60) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 400, schedule.MOST_SECONDS),
        (format_datetime(NOW + timedelta(minutes=3), usegmt=True), 180),
        (format_datetime(NOW - timedelta(minutes=3), usegmt=True), 0),
        ("Wed, 01 May 2024 12:01:00 -0000", 60),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 01 May 99999999999999999999 12:00:00 GMT", None),
        ("Wed, 01 May 2024 12:00:00 +99999999999999999999", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: float | None) -> None:
    assert schedule.retry_after(value, NOW) == expected


@pytest.mark.parametrize("text", ["", "5,", "a", "-1", "nan", "inf", "5;6", "99999999"])
def test_a_schedule_that_cannot_be_read_is_refused_at_the_start(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path, webhook_retry_seconds=text)
