"""Quotas per key: counted from what is stored, freed as it ages, and without a statement where there is none."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import event, update

from service.errors import Forbidden, TooManyRequests
from service.store import quotas
from service.store.quotas import Quotas
from service.store.tables import DeletionRequest
from service.store.types import now
from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(tmp_path_factory.mktemp("quotas"), worker=False, database_url=url) as found:
        factories.dataset(found, "d", train=60)
        factories.model(found, "m")
        factories.version(found, "m")
        yield found


def _client(stack: Stack, **own: int) -> httpx.Client:
    body = {"name": "robot", "scopes": ["requests"], "quotas": own}
    made = stack.client.post("/v1/api-keys", json=body).raise_for_status().json()
    return httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=30)


def _ask(client: httpx.Client, *named: int, key: str | None = None, **changes: Any) -> httpx.Response:
    body = {"dataset": "d", "sample_ids": [f"d-train-{i}" for i in named], "method": "finetune", **changes}
    return client.post("/v1/deletion-requests", json=body, headers={"Idempotency-Key": key} if key else {})


def _age(stack: Stack, request_id: str, by: timedelta) -> None:
    with stack.database.writing() as session:
        statement = update(DeletionRequest).where(DeletionRequest.id == request_id)
        session.execute(statement.values(created_at=now() - by))


def test_the_request_over_the_quota_is_told_when_there_is_room(stack: Stack) -> None:
    with _client(stack, requests_per_day=2) as client:
        first = _ask(client, 0).json()
        _ask(client, 1).raise_for_status()
        _age(stack, first["id"], timedelta(hours=20))
        refused = _ask(client, 2)
        assert refused.status_code == 429
        problem = refused.json()
        assert (problem["code"], problem["quota"]) == ("quota_exceeded", "requests_per_day")
        assert (problem["limit"], problem["used"]) == (2, 2)
        wait = datetime.fromisoformat(problem["frees_at"]) - now()
        assert timedelta(hours=3, minutes=59) < wait <= timedelta(hours=4)
        assert abs(int(refused.headers["Retry-After"]) - wait.total_seconds()) < 5
        _age(stack, first["id"], timedelta(hours=24, seconds=1))
        assert _ask(client, 2).status_code == 202


def test_ids_are_counted_found_or_not_and_the_oldest_free_their_room_first(stack: Stack) -> None:
    with _client(stack, sample_ids_per_day=10) as client:
        mixed = ["d-train-5", "nobody-1", "nobody-2", "nobody-3"]
        old = _ask(client, sample_ids=mixed, unresolved="report").raise_for_status().json()
        newer = _ask(client, 6, 7, 8, 9).raise_for_status().json()
        _age(stack, old["id"], timedelta(hours=23))
        _age(stack, newer["id"], timedelta(hours=22))
        one_more = _ask(client, 10, 11, 12).json()
        assert (one_more["quota"], one_more["used"]) == ("sample_ids_per_day", 8)
        assert datetime.fromisoformat(one_more["frees_at"]) - now() <= timedelta(hours=1)
        many = _ask(client, *range(10, 17)).json()
        assert timedelta(hours=1) < datetime.fromisoformat(many["frees_at"]) - now() <= timedelta(hours=2)
        assert _ask(client, 10, 11).status_code == 202


def test_a_request_that_no_waiting_helps_is_refused_for_good(stack: Stack) -> None:
    with _client(stack, sample_ids_per_day=3) as client:
        refused = _ask(client, 20, 21, 22, 23)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert "name fewer" in refused.json()["detail"]
    assert "Retry-After" not in refused.headers


def test_a_replay_and_a_refused_request_count_nothing(stack: Stack) -> None:
    with _client(stack, requests_per_day=2) as client:
        for _ in range(4):
            assert _ask(client, 25, key="same").status_code == 202
        for _ in range(3):
            assert _ask(client, sample_ids=["nobody"]).status_code == 422
        assert _ask(client, 26).status_code == 202
        assert _ask(client, 27).status_code == 429
        assert _ask(client, 25, key="same").headers["Idempotent-Replayed"] == "true"


def test_a_cancelled_request_still_counts(stack: Stack) -> None:
    with _client(stack, requests_per_day=1) as client:
        made = _ask(client, 30).json()
        client.delete(f"/v1/deletion-requests/{made['id']}").raise_for_status()
        assert _ask(client, 30).status_code == 429


def test_a_quota_is_a_keys_own(stack: Stack) -> None:
    with _client(stack, requests_per_day=1) as one, _client(stack, requests_per_day=1) as other:
        assert [_ask(one, 31).status_code, _ask(one, 32).status_code] == [202, 429]
        assert _ask(other, 32).status_code == 202


def test_eight_at_once_get_no_more_than_the_quota(stack: Stack) -> None:
    with _client(stack, requests_per_day=3) as client:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda i=i: statuses.append(_ask(client, 40 + i).status_code)) for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [202] * 3 + [429] * 5


def test_the_settings_hold_for_keys_without_their_own(stack: Stack) -> None:
    own = {"requests_per_day": 7}
    assert Quotas.of(own, requests_per_day=5, sample_ids_per_day=9) == Quotas(requests=7, sample_ids=9)
    assert Quotas.of({}, requests_per_day=5, sample_ids_per_day=0) == Quotas(requests=5, sample_ids=None)
    url = stack.settings.database_url
    given = {"database_url": url, "quota_requests_per_day": "1"}
    with running(stack.settings.data_dir, worker=False, **given) as bounded, bounded.client_with("requests") as client:
        assert [_ask(client, 50).status_code, _ask(client, 51).status_code] == [202, 429]


def test_without_a_quota_no_statement_is_sent(stack: Stack) -> None:
    statements: list[str] = []
    event.listen(stack.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with stack.database.writing() as session:
        session.connection()
        statements.clear()
        quotas.check(session, "key_x", Quotas(requests=None, sample_ids=None), sample_ids=10**9)
        assert statements == []


def test_of_two_quotas_the_one_that_lasts_longest_is_told(stack: Stack) -> None:
    with _client(stack, requests_per_day=1, sample_ids_per_day=2) as client:
        made = _ask(client, 55).raise_for_status().json()
    with stack.database.writing() as session:
        who = session.get_one(DeletionRequest, made["id"]).principal_id
        both = Quotas(requests=1, sample_ids=2)
        assert isinstance(quotas.refusal(session, who, both, sample_ids=1), TooManyRequests)
        assert isinstance(quotas.refusal(session, who, both, sample_ids=3), Forbidden)
