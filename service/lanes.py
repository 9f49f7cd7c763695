"""A lane for routes that take long, so that they do not hold up the ones that take little.

The interpreter runs one thread at a time and shares it out evenly: with thirty intakes at once, a read that needs a few
milliseconds would wait for its turn among thirty; with a few of them at once, among a few. Nothing is lost by it: what
writes takes turns at the head of the log anyway, and waiting here costs no thread.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

AT_ONCE = 2
T = TypeVar("T")


def lane() -> CapacityLimiter:
    """Return a lane of one process."""
    return CapacityLimiter(AT_ONCE)


def heavy(endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Have a route that is no coroutine, and takes ``parts``, run in the lane, in a thread as it would be without.

    By then the body was read and the key looked up: a slow client takes no place.
    """

    @functools.wraps(endpoint)
    async def in_lane(**given: Any) -> T:
        return await run_sync(functools.partial(endpoint, **given), limiter=given["parts"].lane)

    return in_lane
