"""Rate limits for each key and class of route, told in the fields of draft-ietf-httpapi-ratelimit-headers-10.

A fixed window for each key and class, counted in memory or in a shared Redis. Who asks is known by the digest of the
key, from requests before, so a request over its limit costs neither a statement nor the reading of its body. A key
not seen yet is anyone's: of such, failed authentication is what is limited, by address.
"""

import hashlib
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.errors import StorageError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import ProblemResponse, problem
from service.seen_keys import SeenKeys
from service.settings import Settings

LIMITS = ("reads", "writes", "deletion-requests", "suppression-checks", "downloads", "failed-authentication")
UNLIMITED = frozenset({"/healthz", "/readyz"})
FAILED_AUTHENTICATION = "failed-authentication"
# Addresses share this many counters: who tries from ever new ones fills no memory.
ADDRESS_COUNTERS = 4_096
STORAGE_TIMEOUT_SECONDS, RETRY_STORAGE_SECONDS = 0.5, 10.0
_DOWNLOAD = re.compile(r"/v1/models/[^/]+/versions/[^/]+/weights")
_REQUEST = re.compile(r"/v1/deletion-requests(/preview)?")
_CHECK = re.compile(r"/v1/datasets/[^/]+/suppressions/check")
T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Where a caller stands in the current window of a limit."""

    name: str
    limit: RateLimitItem
    used: int
    seconds_left: int

    @property
    def is_over(self) -> bool:
        return self.used > self.limit.amount

    def headers(self) -> dict[str, str]:
        """Return the two fields of the draft, each a list of one item."""
        remaining = max(0, self.limit.amount - self.used)
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.limit.amount};w={self.limit.get_expiry()}',
            "RateLimit": f'"{self.name}";r={remaining};t={self.seconds_left}',
        }


class Meter:
    """Counts uses. Where the shared storage cannot be reached, this process counts alone for a while."""

    def __init__(self, shared: Storage | None = None) -> None:
        self._shared, self._own = shared, MemoryStorage()
        self._shared_again_at = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "Meter":
        """Return a meter on the storage that the settings name."""
        url = settings.resolved_rate_limit_storage
        if url.startswith("memory"):
            return cls()
        shared = RedisStorage(
            f"async+{url}",
            wrap_exceptions=True,
            implementation="redispy",
            socket_timeout=STORAGE_TIMEOUT_SECONDS,
            socket_connect_timeout=STORAGE_TIMEOUT_SECONDS,
        )
        return cls(shared)

    async def spend(self, name: str, limit: RateLimitItem, who: str) -> Spent:
        """Count one use and return where that leaves the caller."""
        key = limit.key_for(name, who)
        return await self._ask(lambda storage: _spend(storage, name, limit, key))

    async def look(self, name: str, limit: RateLimitItem, who: str) -> Spent:
        """Return where the caller would stand after one use, which is not counted."""
        key = limit.key_for(name, who)
        return await self._ask(lambda storage: _look(storage, name, limit, key))

    async def _ask(self, ask: Callable[[Storage], Awaitable[T]]) -> T:
        if self._shared is not None and time.monotonic() >= self._shared_again_at:
            try:
                return await ask(self._shared)
            except (StorageError, OSError) as error:
                self._shared_again_at = time.monotonic() + RETRY_STORAGE_SECONDS
                log.warning("rate_limits.storage_unreachable", error=type(error.__cause__ or error).__name__)
        return await ask(self._own)


async def _spend(storage: Storage, name: str, limit: RateLimitItem, key: str) -> Spent:
    if isinstance(storage, MemoryStorage) and await storage.get_expiry(key) - time.time() > limit.get_expiry() + 1:
        await storage.clear(key)  # the clock was set back: the window would last as long as it was ahead
    used = await storage.incr(key, limit.get_expiry())
    return Spent(name=name, limit=limit, used=used, seconds_left=await _seconds_left(storage, limit, key))


async def _look(storage: Storage, name: str, limit: RateLimitItem, key: str) -> Spent:
    used = await storage.get(key) + 1
    return Spent(name=name, limit=limit, used=used, seconds_left=await _seconds_left(storage, limit, key))


async def _seconds_left(storage: Storage, limit: RateLimitItem, key: str) -> int:
    """Return the whole seconds until the window ends: rounded up, or a client would come back too early."""
    left = math.ceil(await storage.get_expiry(key) - time.time())
    return min(max(1, left), limit.get_expiry())


def class_of(method: str, path: str) -> str:
    """Return the class of routes that a request belongs to."""
    path = path.rstrip("/")
    if method in ("GET", "HEAD"):
        return "downloads" if _DOWNLOAD.fullmatch(path) else "reads"
    if method == "POST" and _REQUEST.fullmatch(path):
        return "deletion-requests"
    return "suppression-checks" if _CHECK.fullmatch(path) else "writes"


def limits_of(settings: Settings) -> dict[str, RateLimitItem]:
    """Return the limits by name; a class without one is not limited."""
    given = {name: getattr(settings, f"rate_limit_{name.replace('-', '_')}") for name in LIMITS}
    return {name: parse(text) for name, text in given.items() if text}


class RateLimits:
    """ASGI middleware. It looks at the start of an answer alone, so streams pass as they are."""

    def __init__(self, app: ASGIApp, *, limits: Mapping[str, RateLimitItem], meter: Meter, seen: SeenKeys) -> None:
        self._app, self._limits, self._meter, self._seen = app, limits, meter, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNLIMITED:
            await self._app(scope, receive, send)
            return
        digest = _digest(Headers(scope=scope))
        key_id = self._seen.id_of(digest)
        spent = await (self._look_at_stranger(scope) if key_id is None else self._spend(scope, key_id))
        if spent is not None and spent.is_over:
            await _refusal(spent)(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = None if key_id is None else spent
                found = await self._after(scope, message["status"], digest, known)
                MutableHeaders(raw=message["headers"]).update(found.headers() if found else {})
            await send(message)

        await self._app(scope, receive, told)

    async def _spend(self, scope: Scope, key_id: str) -> Spent | None:
        name = class_of(scope["method"], scope["path"])
        limit = self._limits.get(name)
        return await self._meter.spend(name, limit, key_id) if limit else None

    async def _look_at_stranger(self, scope: Scope) -> Spent | None:
        limit = self._limits.get(FAILED_AUTHENTICATION)
        return await self._meter.look(FAILED_AUTHENTICATION, limit, _address(scope)) if limit else None

    async def _after(self, scope: Scope, status: int, digest: bytes, spent: Spent | None) -> Spent | None:
        """Return what the answer tells: of the key's limit or, where authentication failed, of the address's."""
        if status == 401:
            self._seen.forget(digest)
        key_id = self._seen.id_of(digest)
        if key_id is None:
            # Whatever else was wrong with it: a body that cannot be read is refused before anyone asks for the key.
            limit = self._limits.get(FAILED_AUTHENTICATION)
            return await self._meter.spend(FAILED_AUTHENTICATION, limit, _address(scope)) if limit else None
        # A key's first request in this process is counted once it is known to be the key's.
        return await self._spend(scope, key_id) if spent is None else spent


def _digest(headers: Headers) -> bytes:
    """Return the digest under which `service.store.keys` would look the request's key up."""
    return hashlib.sha256(headers.get("authorization", "").partition(" ")[2].strip().encode()).digest()


def _address(scope: Scope) -> str:
    host = (scope.get("client") or ("",))[0]
    return str(int.from_bytes(hashlib.sha256(_network(host)).digest()[:8]) % ADDRESS_COUNTERS)


def _network(host: str) -> bytes:
    """Return what one caller has: an IPv4 address, or a whole /64 of IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.encode()
    return address.packed[:8] if address.version == 6 else address.packed


def _refusal(spent: Spent) -> ProblemResponse:
    what = "failed authentication from this address" if spent.name == FAILED_AUTHENTICATION else f"{spent.name} by key"
    detail = f"The limit of {what} is {spent.limit}. Try again in {spent.seconds_left} seconds."
    document = problem(429, "rate_limited", "Too many requests", detail) | {"violated-policies": [spent.name]}
    return ProblemResponse(document, 429, {"Retry-After": str(spent.seconds_left), **spent.headers()})
