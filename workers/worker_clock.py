"""What a worker knows of its own clock: how far it is from the database's, and whether leases can be judged by it.

Leases are moments of the wall clock. A clock that was set, a machine that slept and a database that was away all make
leases of living workers look run out, so for one lease length after any of them nobody's lease is taken for expired:
who lives lengthens theirs within a third of it.
"""

import time
from collections.abc import Callable

from sqlalchemy.orm import Session

from service.store import clock_skew

Reading = Callable[[], float]


class WorkerClock:
    """Of one worker process; ``limit``: the most seconds its clock may be off."""

    def __init__(self, *, limit: float = 5.0, wall: Reading = time.time, steady: Reading = time.monotonic) -> None:
        self._limit, self._wall, self._steady = limit, wall, steady
        self._skew, self._apart, self._doubtful_until = 0.0, wall() - steady(), 0.0

    @property
    def is_off(self) -> bool:
        return abs(self._skew) > self._limit

    @property
    def skew_seconds(self) -> float:
        """What has to be added to this clock for the database's, by which leases are taken and judged."""
        return self._skew

    @property
    def trusts_leases(self) -> bool:
        return self._steady() >= self._doubtful_until

    def told(self) -> dict[str, float | str]:
        """Return what an operator is told of a clock that is off."""
        do = "set the machine's clock by NTP; until then this worker takes no job and frees no lease"
        return {"seconds": round(self._skew, 1), "limit": self._limit, "do": do}

    def look(self, session: Session, *, lease_seconds: float) -> None:
        """Compare with the database's clock, and with this machine's steady one since the last look."""
        self._skew = clock_skew.seconds(session)
        apart = self._wall() - self._steady()
        if abs(apart - self._apart) > lease_seconds / 3:
            self.doubt_leases(lease_seconds)
        self._apart = apart

    def doubt_leases(self, lease_seconds: float) -> None:
        """Take no lease for expired until every living worker has had the time to lengthen its own."""
        self._doubtful_until = self._steady() + lease_seconds
