"""When a delivery that failed is tried again; pure."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# A receiver cannot ask to be left alone for longer.
MOST_SECONDS = 86_400.0
JITTER = 0.2
_DIGITS = 9


def wait(
    waits: Sequence[float],
    attempts: int,
    *,
    asked: float | None = None,
    uniform: Callable[[float, float], float] = random.uniform,
) -> float | None:
    """Return the seconds until the next attempt after so many, or None when that was the last.

    ``asked`` seconds lengthen the wait up to a day; nothing shortens it. The jitter keeps many deliveries that failed
    together from coming back together.
    """
    if attempts > len(waits):
        return None
    own = waits[attempts - 1] * uniform(1 - JITTER, 1 + JITTER)
    return max(own, min(asked or 0.0, MOST_SECONDS))


def longest(waits: Sequence[float]) -> float:
    """Return the seconds that `wait` gives at most."""
    return max(MOST_SECONDS, *(wait * (1 + JITTER) for wait in waits))


def retry_after(value: str | None, moment: datetime) -> float | None:
    """Return the seconds a Retry-After header asks for (RFC 9110 §10.2.3); None where it says nothing readable."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _DIGITS else MOST_SECONDS
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year of twenty digits overflows before it is judged
        return None
    return max((found.replace(tzinfo=found.tzinfo or UTC) - moment).total_seconds(), 0.0)
