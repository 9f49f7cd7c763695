"""Rate limits at a real socket, counted in the process and in a Valkey shared by several."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import factories
from tests.stack import Stack, running

# By the hour: seldom does a window end in the middle of a test.
LIMITS = {
    "rate_limit_reads": "6/hour",
    "rate_limit_writes": "4/hour",
    "rate_limit_deletion_requests": "3/hour",
    "rate_limit_downloads": "2/hour",
    "rate_limit_failed_authentication": "5/hour",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("limits"), worker=False, **LIMITS) as found:
        yield found


def _statuses(client: httpx.Client, path: str, count: int) -> list[int]:
    return [client.get(path).status_code for _ in range(count)]


def test_a_key_over_its_limit_is_told_when_to_come_back(stack: Stack) -> None:
    with stack.client_with("models:read") as client:
        answers = [client.get("/v1/models") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 6 + [429]
        for left, answer in zip((5, 4, 3, 2, 1, 0, 0), answers, strict=True):
            assert answer.headers["RateLimit-Policy"] == '"reads";q=6;w=3600'
            assert answer.headers["RateLimit"].startswith(f'"reads";r={left};t=')
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "rate_limited"
        assert refused.json()["violated-policies"] == ["reads"]
        assert "6 per 1 hour" in refused.json()["detail"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 3600
        assert refused.headers["RateLimit"].endswith(f"t={refused.headers['Retry-After']}")
        # Another class of routes has its own window, and a problem carries its fields too.
        other = client.post("/v1/models", json={})
        assert (other.status_code, other.headers["RateLimit-Policy"]) == (403, '"writes";q=4;w=3600')


def test_one_keys_limit_is_not_anothers_and_health_has_none(stack: Stack) -> None:
    with stack.client_with("models:read") as one, stack.client_with("models:read") as other:
        assert _statuses(one, "/v1/models", 8)[-1] == 429
        assert other.get("/v1/models").status_code == 200
        health = [one.get("/healthz") for _ in range(20)]
        assert {answer.status_code for answer in health} == {200}
        assert "RateLimit" not in health[0].headers


def test_a_body_over_the_limit_of_its_class_is_refused_unread(stack: Stack) -> None:
    with stack.client_with("requests") as client:
        client.get("/v1/deletion-requests").raise_for_status()
        body, media = b" " * 8_000_000, {"Content-Type": "application/json"}
        answers = [client.post("/v1/deletion-requests", content=body, headers=media) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [400, 400, 400, 429]
        assert client.get("/v1/deletion-requests").status_code == 200, "the connection goes on"


def test_streams_and_ranges_pass_as_they_are(stack: Stack) -> None:
    factories.dataset(stack, "d")
    factories.model(stack, "m")
    factories.version(stack, "m")
    with stack.client_with("admin") as client:
        path = "/v1/models/m/versions/1/weights"
        whole, part = client.get(path), client.get(path, headers={"Range": "bytes=0-9"})
        assert (whole.status_code, len(whole.content)) == (200, 4096)
        assert (part.status_code, part.content) == (206, whole.content[:10])
        assert client.get(path).status_code == 429
        head = client.head(path)
        assert (head.status_code, head.content) == (429, b"")
        body = {"dataset": "d", "sample_ids": ["d-train-0"], "method": "finetune"}
        request = client.post("/v1/deletion-requests", json=body).raise_for_status().json()
        with client.stream("GET", f"/v1/deletion-requests/{request['id']}/events", timeout=10) as events:
            assert events.headers["RateLimit-Policy"] == '"reads";q=6;w=3600'
            assert next(events.iter_lines()) != "", "the first event comes while the stream is open"


def test_guessing_keys_is_limited_by_address_and_locks_no_valid_key_out(tmp_path: Path) -> None:
    with running(tmp_path, worker=False, rate_limit_failed_authentication="5/hour") as found:
        assert found.client.get("/v1/models").status_code == 200
        with httpx.Client(base_url=found.base_url) as stranger:
            answers = [
                stranger.get("/v1/models", headers={"Authorization": f"Bearer ul_guess{number}"}) for number in range(7)
            ]
            assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
            assert answers[0].headers["RateLimit"].startswith('"failed-authentication";r=4;t=')
            assert "address" in answers[-1].json()["detail"]
            assert stranger.get("/v1/models").status_code == 429, "no key at all is a failure too"
            assert stranger.post("/v1/deletion-requests", content=b"{").status_code == 429, "nor is a body read"
            assert stranger.get("/healthz").status_code == 200
        assert found.client.get("/v1/models").status_code == 200


def test_a_key_that_was_revoked_is_a_strangers(stack: Stack) -> None:
    made = stack.client.post("/v1/api-keys", json={"name": "k", "scopes": ["models:read"]}).raise_for_status().json()
    with httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {made['key']}"}) as client:
        assert client.get("/v1/models").headers["RateLimit-Policy"].startswith('"reads"')
        stack.client.delete(f"/v1/api-keys/{made['id']}").raise_for_status()
        answer = client.get("/v1/models")
        assert answer.status_code == 401
        assert answer.headers["RateLimit-Policy"].startswith('"failed-authentication"')


def test_more_spaces_before_the_key_buy_no_second_limit(stack: Stack) -> None:
    key = stack.key("models:read")
    with httpx.Client(base_url=stack.base_url) as client:
        headers = [(b"Authorization", f"Bearer{' ' * count}{key}".encode()) for count in (1, 2, 3)]
        statuses = [client.get("/v1/models", headers=[headers[number % 3]]).status_code for number in range(12)]
    assert statuses.count(200) <= 6


def test_processes_with_one_valkey_share_one_count_and_go_on_without_it(tmp_path: Path, valkey_url: str) -> None:
    given = {"rate_limit_storage": valkey_url, "rate_limit_reads": "9/hour"}
    with running(tmp_path, worker=False, **given) as one, running(tmp_path, worker=False, **given) as two:
        key = one.key("models:read")
        with (
            httpx.Client(base_url=one.base_url, headers={"Authorization": f"Bearer {key}"}) as first,
            httpx.Client(base_url=two.base_url, headers={"Authorization": f"Bearer {key}"}) as second,
        ):
            statuses = [client.get("/v1/models").status_code for _ in range(6) for client in (first, second)]
            assert statuses == [200] * 9 + [429] * 3
    with running(tmp_path, worker=False, rate_limit_storage="redis://127.0.0.1:1/0", rate_limit_reads="2/hour") as cut:
        with cut.client_with("models:read") as client:
            started = time.monotonic()
            assert _statuses(client, "/v1/models", 3) == [200, 200, 429]
            assert time.monotonic() - started < 20
        assert "rate_limits.storage_unreachable" in cut.log.read_text()
