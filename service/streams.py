"""How many streams of events this process holds open, and the few threads that look for their news."""

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from service.errors import Unavailable

# So that followers, however many, leave the threads of all other routes alone.
THREADS = 4


class Streams:
    """One for each process."""

    def __init__(self) -> None:
        self.threads = CapacityLimiter(THREADS)
        self._open = 0

    def refuse_beyond(self, most: int) -> None:
        """Raise Unavailable where that many are open."""
        if self._open >= most:
            detail = f"{most} streams are open, and this process holds no more; come back soon, or ask for the request."
            raise Unavailable(detail, code="too_many_streams", title="Too many streams")

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a stream as long as the context lasts."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
