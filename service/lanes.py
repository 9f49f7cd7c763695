"""Lanes for routes that take long, so that they do not hold up the ones that take little.

The interpreter runs one thread at a time and shares it out evenly: with thirty intakes at once, a read that needs a few
milliseconds would wait for its turn among thirty; with a few of them at once, among a few. Little is lost by it: the
transactions take turns at the head of the log anyway, and waiting here costs no thread. Reads have a lane of their own,
since a write may wait for another transaction.
"""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

READS_AT_ONCE, WRITES_AT_ONCE = 2, 4
T = TypeVar("T")


@dataclass(frozen=True)
class Lanes:
    """Those of one process."""

    reads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(READS_AT_ONCE))
    writes: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(WRITES_AT_ONCE))


def long_read(endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Have a route that is no coroutine, and takes ``parts``, run in the lane of reads, in a thread."""
    return _in_lane(endpoint, lambda lanes: lanes.reads)


def long_write(endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
    """Have such a route run in the lane of writes. Its body was read by then: a slow client takes no place."""
    return _in_lane(endpoint, lambda lanes: lanes.writes)


def _in_lane(endpoint: Callable[..., T], lane: Callable[[Lanes], CapacityLimiter]) -> Callable[..., Awaitable[T]]:
    @functools.wraps(endpoint)
    async def in_lane(**given: Any) -> T:
        return await run_sync(functools.partial(endpoint, **given), limiter=lane(given["parts"].lanes))

    return in_lane
