"""A clock that tests set, in place of the store's: moments and the times inside identifiers come from it."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from unittest.mock import patch

from service.store import clock_skew, types

_START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Stands still but for a millisecond per identifier, and goes wherever it is put."""

    def __init__(self) -> None:
        self.moment = _START
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def advance(self, seconds: float) -> None:
        """Go on, or back."""
        with self._lock:
            self.moment += timedelta(seconds=seconds)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the store read this clock; its own functions stay, since everyone has imported them by name."""
        with (
            patch.object(types, "datetime", self._datetime()),
            patch.object(types, "time", self),
            patch.object(types, "secrets", self),
            # The database keeps its own time: it is taken to go with this clock.
            patch.object(clock_skew, "seconds", lambda _: 0.0),
        ):
            yield

    def time_ns(self) -> int:
        self.advance(0.001)
        return int(self.moment.timestamp() * 1000) * 1_000_000

    def token_hex(self, size: int) -> str:
        """Return what no other identifier has, the same in every run."""
        return f"{next(self._numbers):0{2 * size}x}"

    def _datetime(self) -> type[datetime]:
        clock = self

        class Set(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return clock.moment.astimezone(tz)

        return Set
