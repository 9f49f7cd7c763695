"""/v1/webhooks over HTTP: whose endpoints are whose, what is refused and why, secrets shown once, delivery at work."""

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, text
from standardwebhooks import Webhook

from service.catalogue.webhook_events import EVENTS
from service.store import webhooks
from service.store.tables import WebhookEndpoint
from tests import factories
from tests.receiver import Receiver, expected_signature, receiving
from tests.stack import Stack, running

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
HOOK = "http://127.0.0.1:9/hook"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = {"webhook_allowed_hosts": "127.0.0.1", "webhook_retry_seconds": "0.2,0.2", "database_url": url}
    with running(tmp_path_factory.mktemp("webhooks"), worker=False, **settings) as found:
        factories.dataset(found, "d")
        factories.model(found, "m", of="d")
        factories.version(found, "m")
        yield found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def _create(stack: Stack, url: str = HOOK, **body: Any) -> Any:
    return stack.client.post("/v1/webhooks", json={"url": url, **body}).raise_for_status().json()


def _deliveries(stack: Stack, webhook_id: str, **params: Any) -> list[Any]:
    answer = stack.client.get(f"/v1/webhooks/{webhook_id}/deliveries", params=params)
    items: list[Any] = answer.raise_for_status().json()["items"]
    return items


def _until(stack: Stack, webhook_id: str, state: str, count: int = 1) -> list[Any]:
    def found() -> list[Any] | None:
        items = _deliveries(stack, webhook_id, state=state)
        return items if len(items) >= count else None

    return stack.until(found)


def _refusal(answer: httpx.Response, status: int = 422) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


def test_a_request_is_told_of_from_end_to_end(stack: Stack, receiver: Receiver) -> None:
    made = _create(stack, receiver.url, events=["request.accepted", "request.cancelled"])
    asked = stack.client.post(
        "/v1/deletion-requests",
        json={"dataset": "d", "sample_ids": ["d-train-0"], "method": "finetune"},
        headers={"Idempotency-Key": "told"},
    )
    request_id = asked.raise_for_status().json()["id"]
    stack.client.delete(f"/v1/deletion-requests/{request_id}").raise_for_status()
    calls = receiver.wait(2)
    payloads = [Webhook(made["secret"]).verify(call.body, call.headers) for call in calls]
    assert [payload["type"] for payload in payloads] == ["request.accepted", "request.cancelled"]
    assert {payload["data"]["request"] for payload in payloads} == {request_id}
    assert all(call.headers["webhook-signature"] == expected_signature(made["secret"], call) for call in calls)
    assert not any(b"d-train-0" in call.body for call in calls)
    found = _until(stack, made["id"], "delivered", 2)
    assert {each["event_id"] for each in found} == {call.headers["webhook-id"] for call in calls}


def test_a_secret_is_shown_once_and_stored_encrypted(stack: Stack) -> None:
    made, given = _create(stack), _create(stack, secret=SECRET)
    assert given["secret"] == SECRET
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    for path in ("/v1/webhooks", f"/v1/webhooks/{made['id']}"):
        answer = stack.client.get(path)
        assert made["secret"] not in answer.text
        assert '"secret"' not in answer.text
    with stack.database.reading() as session:
        stored = repr(session.execute(text("SELECT * FROM webhook_endpoints")).all())
        logged = repr(session.execute(text("SELECT * FROM audit_entries")).all())
    for secret in (made["secret"], SECRET):
        raw = base64.b64decode(secret.removeprefix("whsec_"))
        for place in (stored, logged, stack.log.read_text()):
            assert secret not in place
            assert repr(raw)[2:-1] not in place


@pytest.mark.parametrize(
    ("body", "pointers", "codes"),
    [
        ({"url": "http://10.0.0.1/"}, ["/url"] * 3, ["https_required", "port_not_allowed", "address_not_public"]),
        ({"url": "https://127.0.0.2/"}, ["/url"], ["address_not_public"]),
        ({"url": "https://169.254.169.254/"}, ["/url"], ["address_not_public"]),
        ({"url": "https://[::ffff:127.0.0.1]/"}, ["/url"], ["address_not_public"]),
        ({"url": "https://nowhere.invalid/"}, ["/url"], ["host_not_resolved"]),
        ({"url": "https://u:p@127.0.0.1/"}, ["/url"], ["userinfo_not_allowed"]),
        ({"url": HOOK, "secret": "whsec_short"}, ["/secret"], ["invalid_webhook_secret"]),
        ({"url": HOOK, "events": ["request.vanished"]}, ["/events/0"], ["unknown_event_type"]),
        ({"url": HOOK, "events": ["*", "request.denied"]}, ["/events/0"], ["unknown_event_type"]),
        (
            {"url": "x", "events": ["request.denied", "no"], "secret": "no"},
            ["/events/1", "/secret", "/url", "/url"],
            ["unknown_event_type", "invalid_webhook_secret", "https_required", "url_malformed"],
        ),
        ({}, ["/url"], ["missing"]),
        ({"url": HOOK, "events": []}, ["/events"], ["too_short"]),
        ({"url": HOOK, "unknown": 1}, ["/unknown"], ["extra_forbidden"]),
    ],
)
def test_every_fault_of_a_webhook_is_named(
    stack: Stack, body: dict[str, Any], pointers: list[str], codes: list[str]
) -> None:
    problem = _refusal(stack.client.post("/v1/webhooks", json=body))
    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert [error["code"] for error in problem["errors"]] == codes
    assert all(error["detail"] for error in problem["errors"])


def test_a_rejected_secret_is_not_echoed(stack: Stack) -> None:
    answer = stack.client.post("/v1/webhooks", json={"url": HOOK, "secret": "whsec_nearly-right"})
    assert "nearly-right" not in answer.text


def test_a_key_cannot_subscribe_to_what_it_may_not_read(stack: Stack) -> None:
    with stack.client_with("webhooks", "models:read") as client:
        problem = _refusal(client.post("/v1/webhooks", json={"url": HOOK, "events": ["request.denied"]}))
        assert [error["code"] for error in problem["errors"]] == ["scope_missing"]
        made = client.post("/v1/webhooks", json={"url": HOOK, "events": ["version.retired"]})
        assert made.status_code == 201
        # Nor can somebody else change it to hear more than its owner may.
        problem = _refusal(stack.client.patch(f"/v1/webhooks/{made.json()['id']}", json={"events": ["request.denied"]}))
        assert [error["code"] for error in problem["errors"]] == ["scope_missing"]


def test_a_key_sees_its_own_webhooks_and_an_administrator_all(stack: Stack) -> None:
    with stack.client_with("webhooks") as mine, stack.client_with("webhooks") as other:
        made = mine.post("/v1/webhooks", json={"url": HOOK}).raise_for_status().json()
        path = f"/v1/webhooks/{made['id']}"
        assert [item["id"] for item in mine.get("/v1/webhooks").json()["items"]] == [made["id"]]
        assert other.get("/v1/webhooks").json()["items"] == []
        for answer in (
            other.get(path),
            other.patch(path, json={"enabled": False}),
            other.delete(path),
            other.post(f"{path}/rotate-secret"),
            other.post(f"{path}/test"),
            other.get(f"{path}/deliveries"),
            other.post(f"{path}/replay", json={"since": "2024-01-01T00:00:00Z"}),
            other.post(f"{path}/deliveries/dlv_1/replay"),
        ):
            assert _refusal(answer, 404)["code"] == "webhook_not_found"
        assert stack.client.get(path).json()["owner"] == made["owner"]
        assert mine.get(path).json() == {name: made[name] for name in made if name != "secret"}


def test_a_webhook_is_changed_disabled_and_deleted_and_the_log_says_so(stack: Stack) -> None:
    made = _create(stack, description="first")
    path = f"/v1/webhooks/{made['id']}"
    changed = stack.client.patch(path, json={"events": ["job.held"], "description": "second"}).json()
    assert (changed["events"], changed["description"], changed["url"]) == (["job.held"], "second", HOOK)
    off = stack.client.patch(path, json={"enabled": False}).json()
    assert (off["enabled"], off["disabled_reason"]) == (False, "by_request")
    assert _refusal(stack.client.post(f"{path}/test"), 409)["code"] == "webhook_disabled"
    problem = _refusal(stack.client.patch(path, json={"url": "https://10.0.0.1/"}))
    assert [error["code"] for error in problem["errors"]] == ["address_not_public"]
    assert stack.client.get(path).json()["url"] == HOOK
    assert stack.client.patch(path, json={}).json() == stack.client.get(path).json()
    assert stack.client.delete(path).status_code == 204
    assert stack.client.get(path).status_code == 404
    entries = stack.client.get("/v1/audit/entries", params={"limit": 1000}).json()["items"]
    mine = [entry for entry in entries if entry["subject"] == f"webhook/{made['id']}"]
    actions = ["webhook.created", "webhook.changed", "webhook.changed", "webhook.deleted"]
    assert [entry["action"] for entry in mine] == actions
    assert {entry["actor"] for entry in mine} == {made["owner"]}
    assert "/hook" not in json.dumps(mine), "a path may hold a secret"


def test_a_ping_reaches_its_webhook_alone_whatever_it_asked_for(stack: Stack, receiver: Receiver) -> None:
    with receiving() as elsewhere:
        made, _ = _create(stack, receiver.url, events=["job.held"]), _create(stack, elsewhere.url)
        sent = stack.client.post(f"/v1/webhooks/{made['id']}/test")
        assert (sent.status_code, sent.json()["state"], sent.json()["type"]) == (202, "pending", "webhook.ping")
        (call,) = receiver.wait(1)
        payload = Webhook(made["secret"]).verify(call.body, call.headers)
        assert (payload["type"], payload["data"]) == ("webhook.ping", {"webhook": made["id"]})
        assert call.headers["webhook-id"] == sent.json()["event_id"]
        _until(stack, made["id"], "delivered")
        assert elsewhere.calls == []


def test_secrets_are_rotated_with_an_overlap_of_the_callers_choice(stack: Stack, receiver: Receiver) -> None:
    made = _create(stack, receiver.url, events=["job.held"])
    path = f"/v1/webhooks/{made['id']}"
    new = stack.client.post(f"{path}/rotate-secret").raise_for_status().json()
    until = datetime.fromisoformat(new["previous_secret_until"])
    assert abs(until - datetime.now(UTC) - timedelta(days=1)) < timedelta(minutes=5)
    stack.client.post(f"{path}/test").raise_for_status()
    (call,) = receiver.wait(1)
    for secret in (made["secret"], new["secret"]):
        Webhook(secret).verify(call.body, call.headers)
    now = stack.client.post(f"{path}/rotate-secret", json={"secret": SECRET, "overlap_seconds": 0}).json()
    assert now == {"secret": SECRET, "previous_secret_until": None}
    stack.client.post(f"{path}/test").raise_for_status()
    call = receiver.wait(2)[1]
    assert call.headers["webhook-signature"] == expected_signature(SECRET, call)
    problem = _refusal(stack.client.post(f"{path}/rotate-secret", json={"overlap_seconds": 10**7}))
    assert [error["pointer"] for error in problem["errors"]] == ["/overlap_seconds"]
    assert (
        _refusal(stack.client.post(f"{path}/rotate-secret", json={"secret": "x"}))["errors"][0]["pointer"] == "/secret"
    )


def test_a_dead_letter_says_why_and_is_replayed(stack: Stack, receiver: Receiver) -> None:
    receiver.answer = lambda _: (308, {"location": "https://elsewhere.example/"})
    made = _create(stack, receiver.url, events=["job.held"])
    path = f"/v1/webhooks/{made['id']}"
    stack.client.post(f"{path}/test").raise_for_status()
    (dead,) = _until(stack, made["id"], "dead")
    assert (dead["attempts"], dead["last_status"], dead["error"]["code"]) == (3, 308, "redirect_refused")
    assert "redirect" in dead["error"]["detail"]
    receiver.answer = lambda _: (200, {})
    again = stack.client.post(f"{path}/deliveries/{dead['id']}/replay")
    assert (again.status_code, again.json()["state"], again.json()["attempts"]) == (202, "pending", 0)
    _until(stack, made["id"], "delivered")
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1
    answer = stack.client.post(f"{path}/replay", json={"since": "2024-01-01T00:00:00+02:00"})
    assert (answer.status_code, answer.json()) == (202, {"replayed": 1, "next_since": None})
    receiver.wait(5)
    entries = stack.client.get("/v1/audit/entries", params={"limit": 1000, "action": "webhook.replayed"}).json()
    assert [entry["subject"] for entry in entries["items"]].count(f"webhook/{made['id']}") == 2
    assert _refusal(stack.client.post(f"{path}/deliveries/dlv_no/replay"), 404)["code"] == "delivery_not_found"


@pytest.mark.parametrize("since", ["2999-01-01T00:00:00Z", "2024-01-01T00:00:00", "yesterday", None])
def test_a_replay_from_no_past_moment_is_refused(stack: Stack, since: str | None) -> None:
    made = _create(stack)
    problem = _refusal(stack.client.post(f"/v1/webhooks/{made['id']}/replay", json={"since": since}))
    assert [error["pointer"] for error in problem["errors"]] == ["/since"]


def test_deliveries_come_in_pages_by_state(stack: Stack, receiver: Receiver) -> None:
    made = _create(stack, receiver.url, events=["job.held"])
    path = f"/v1/webhooks/{made['id']}"
    sent = [stack.client.post(f"{path}/test").json()["id"] for _ in range(5)]
    _until(stack, made["id"], "delivered", 5)
    found, cursor = [], None
    for _ in range(4):
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = stack.client.get(f"{path}/deliveries", params=params).raise_for_status().json()
        found += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sent[::-1]
    assert _deliveries(stack, made["id"], state="dead") == []
    assert _refusal(stack.client.get(f"{path}/deliveries", params={"state": "lost"}))["errors"][0]["pointer"]
    bad = stack.client.get(f"{path}/deliveries", params={"cursor": "!"})
    assert _refusal(bad)["code"] == "invalid_cursor"


def test_a_key_has_so_many_webhooks_and_no_more(stack: Stack) -> None:
    with stack.client_with("webhooks") as client:
        owner = client.post("/v1/webhooks", json={"url": HOOK}).raise_for_status().json()["owner"]
        with stack.database.writing() as session:
            for _ in range(webhooks.MAX_PER_KEY - 2):
                given: dict[str, Any] = {"host": "h", "description": "", "events": ["*"], "secret": b"s"}
                webhooks.create(session, endpoint_id=webhooks.new_endpoint_id(), key_id=owner, url=HOOK, **given)
        assert client.post("/v1/webhooks", json={"url": HOOK}).status_code == 201
        assert _refusal(client.post("/v1/webhooks", json={"url": HOOK}), 409)["code"] == "too_many_webhooks"
    with stack.database.writing() as session:
        session.execute(delete(WebhookEndpoint).where(WebhookEndpoint.key_id == owner))


def test_the_events_are_listed_with_their_schemas(stack: Stack) -> None:
    items = stack.client.get("/v1/webhooks/events").raise_for_status().json()["items"]
    assert [item["name"] for item in items] == list(EVENTS)
    assert all(item["payload_schema"]["properties"]["type"]["const"] == item["name"] for item in items)


def test_a_service_killed_while_it_delivers_sends_it_again_under_the_same_id(
    tmp_path: Path, receiver: Receiver
) -> None:
    release = threading.Event()
    receiver.answer = lambda _: (200 if release.wait(60) else 500, {})
    settings = {"webhook_allowed_hosts": "127.0.0.1", "webhook_timeout_seconds": "2"}
    with running(tmp_path, worker=False, **settings) as stack:
        made = _create(stack, receiver.url, events=["job.held"])
        sent = stack.client.post(f"/v1/webhooks/{made['id']}/test").raise_for_status().json()
        receiver.wait(1)
        stack.api.kill()
        stack.api.wait()
        release.set()
        with stack.log.open("ab") as log:
            command = [sys.executable, "-m", "service.cli", "api", "--port", stack.base_url.rpartition(":")[2]]
            stack.api = subprocess.Popen(command, env=stack.env, stdout=log, stderr=log)
        first, second = receiver.wait(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"] == sent["event_id"]
        stack.until(lambda: _answers(stack))
        (row,) = _until(stack, made["id"], "delivered")
        assert row["attempts"] == 2


def _answers(stack: Stack) -> bool | None:
    try:
        return stack.client.get("/readyz").status_code == 200 or None
    except httpx.TransportError:
        return None
