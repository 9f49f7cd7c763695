"""The API keys this process has found valid: who stands behind a digest, and when each was last used.

Kept in memory, so that rate limits know a caller before any statement runs and no read has to write. A duty carries
the times of use to the store. What is known here proves nothing: every request is still looked up.
"""

from collections import OrderedDict
from datetime import datetime
from threading import Lock

from service.store.types import now

MOST = 10_000


class SeenKeys:
    """Digests of valid keys with their ids, the least recently used forgotten first."""

    def __init__(self, most: int = MOST) -> None:
        self._most, self._lock = most, Lock()
        self._ids: OrderedDict[bytes, str] = OrderedDict()
        self._used: dict[str, datetime] = {}

    def note(self, digest: bytes, key_id: str) -> None:
        """Remember that a valid key came just now."""
        with self._lock:
            self._used[key_id] = now()
            self._ids[digest] = key_id
            self._ids.move_to_end(digest)
            if len(self._ids) > self._most:
                self._ids.popitem(last=False)

    def id_of(self, digest: bytes) -> str | None:
        return self._ids.get(digest)

    def forget(self, digest: bytes) -> None:
        """Forget a digest that is valid no more."""
        with self._lock:
            self._ids.pop(digest, None)

    def used(self) -> dict[str, datetime]:
        """Return when each key was last used, of those whose use `written` has not been told of."""
        with self._lock:
            return dict(self._used)

    def written(self, used: dict[str, datetime]) -> None:
        """Drop what is now in the store; what came in between stays for the next time."""
        with self._lock:
            for key_id, moment in used.items():
                if self._used.get(key_id) == moment:
                    del self._used[key_id]
