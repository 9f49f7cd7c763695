"""How uses are counted and told: fixed windows by key and class, in the fields of the draft."""

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.errors import StorageError
from pydantic import ValidationError

from service import rate_limits
from service.rate_limits import LIMITS, Meter, Spent, class_of, limits_of
from service.seen_keys import SeenKeys
from service.settings import Settings

THREE = parse("3/minute")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in ("limits.aio.storage.memory.time", "service.rate_limits.time"):
        monkeypatch.setattr(module, SimpleNamespace(time=found.time, monotonic=found.monotonic))
    return found


def _spend(meter: Meter, count: int, who: str = "key_a", name: str = "reads", limit: RateLimitItem = THREE) -> Spent:
    async def spend() -> Spent:
        for _ in range(count - 1):
            await meter.spend(name, limit, who)
        return await meter.spend(name, limit, who)

    return asyncio.run(spend())


def test_a_limit_of_three_is_over_at_the_fourth_and_free_again_a_window_after_the_first(clock: Clock) -> None:
    meter = Meter()
    first = _spend(meter, 1)
    assert (first.used, first.is_over, first.seconds_left) == (1, False, 60)
    clock.now += 20.5
    third = _spend(meter, 2)
    assert (third.used, third.is_over, third.seconds_left) == (3, False, 40)
    clock.now += 39
    fourth = _spend(meter, 1)
    assert (fourth.used, fourth.is_over, fourth.seconds_left) == (4, True, 1)
    clock.now += 0.5
    fresh = _spend(meter, 1)
    assert (fresh.used, fresh.is_over, fresh.seconds_left) == (1, False, 60)


def test_keys_and_classes_are_counted_apart(clock: Clock) -> None:
    meter = Meter()
    assert _spend(meter, 4).is_over
    assert not _spend(meter, 1, who="key_b").is_over
    assert not _spend(meter, 1, name="writes").is_over


def test_looking_counts_nothing(clock: Clock) -> None:
    meter = Meter()

    async def look() -> list[int]:
        return [(await meter.look("reads", THREE, "key_a")).used for _ in range(5)]

    assert asyncio.run(look()) == [1] * 5


def _item(text: str) -> tuple[str, dict[str, int]]:
    """Read one item of a structured field (RFC 9651) with integer parameters, by its grammar and nothing else."""
    match = re.fullmatch(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]*)"((?:;[a-z][a-z0-9_.*-]*=-?[0-9]{1,15})*)', text)
    assert match is not None, text
    return match[1], {key: int(number) for key, number in re.findall(r";([^=]+)=(-?[0-9]+)", match[2])}


@pytest.mark.parametrize(("used", "remaining"), [(1, 2), (3, 0), (4, 0), (900, 0)])
def test_the_fields_are_those_of_the_draft(used: int, remaining: int) -> None:
    told = Spent(name="deletion-requests", limit=THREE, used=used, seconds_left=17).headers()
    assert set(told) == {"RateLimit-Policy", "RateLimit"}
    assert _item(told["RateLimit-Policy"]) == ("deletion-requests", {"q": 3, "w": 60})
    assert _item(told["RateLimit"]) == ("deletion-requests", {"r": remaining, "t": 17})


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/v1/models", "reads"),
        ("HEAD", "/v1/models/m/versions/1/weights", "downloads"),
        ("GET", "/v1/models/m/versions/latest/weights", "downloads"),
        ("GET", "/v1/models/m/versions/1", "reads"),
        ("POST", "/v1/deletion-requests", "deletion-requests"),
        ("POST", "/v1/deletion-requests/", "deletion-requests"),
        ("POST", "/v1/deletion-requests/preview", "deletion-requests"),
        ("POST", "/v1/deletion-requests/req_1/approve", "writes"),
        ("GET", "/v1/deletion-requests/req_1/events", "reads"),
        ("POST", "/v1/datasets/d/suppressions/check", "suppression-checks"),
        ("DELETE", "/v1/api-keys/key_1", "writes"),
        ("PUT", "/v1/models/m/policy", "writes"),
    ],
)
def test_each_route_is_of_one_class(method: str, path: str, found: str) -> None:
    assert class_of(method, path) == found


class Unreachable(MemoryStorage):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def incr(self, *_: Any, **__: Any) -> int:
        self.asked += 1
        raise StorageError(ConnectionError("refused"))


def test_while_the_shared_storage_is_away_the_process_counts_by_itself_and_asks_again_later(clock: Clock) -> None:
    shared = Unreachable()
    meter = Meter(shared)
    assert _spend(meter, 4).is_over
    assert shared.asked == 1
    clock.now += rate_limits.RETRY_STORAGE_SECONDS
    _spend(meter, 1)
    assert shared.asked == 2


def test_a_limit_can_be_lifted_and_a_rate_must_be_one() -> None:
    assert set(limits_of(Settings())) == set(LIMITS)
    assert "reads" not in limits_of(Settings(rate_limit_reads=""))
    assert limits_of(Settings(rate_limit_writes="10/second"))["writes"].amount == 10
    for wrong in ("many", "10/fortnight", "-1/minute"):
        with pytest.raises(ValidationError, match="rate_limit_reads"):
            Settings(rate_limit_reads=wrong)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "memory://"),
        ({"broker_url": "redis://h/0"}, "redis://h/0"),
        ({"broker_url": "amqp://h"}, "memory://"),
        ({"broker_url": "redis://h/0", "rate_limit_storage": "memory://"}, "memory://"),
        ({"rate_limit_storage": "redis://other"}, "redis://other"),
    ],
)
def test_uses_are_counted_where_the_broker_is_unless_told_otherwise(given: dict[str, Any], found: str) -> None:
    assert Settings(**given).resolved_rate_limit_storage == found


def test_a_storage_that_is_neither_memory_nor_redis_is_refused() -> None:
    with pytest.raises(ValidationError, match="rate_limit_storage"):
        Settings(rate_limit_storage="memcached://h")


def test_the_keys_a_process_remembers_are_bounded_and_the_oldest_go_first() -> None:
    seen = SeenKeys(most=2)
    for digest, key_id in ((b"1", "a"), (b"2", "b"), (b"1", "a"), (b"3", "c")):
        seen.note(digest, key_id)
    assert [seen.id_of(digest) for digest in (b"1", b"2", b"3")] == ["a", None, "c"]
    seen.forget(b"1")
    assert seen.id_of(b"1") is None


def test_a_use_that_comes_while_others_are_written_is_not_lost() -> None:
    seen = SeenKeys()
    seen.note(b"1", "a")
    seen.note(b"2", "b")
    used = seen.used()
    seen.note(b"1", "a")
    seen.written(used)
    assert set(seen.used()) == {"a"}
