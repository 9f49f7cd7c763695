"""An event arrives, in its order and signed, or is dead after its last attempt and can be sent again."""

import json
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from service.store import deliveries, webhooks
from service.store.tables import WebhookEndpoint, WebhookEvent
from service.store.types import now
from service.webhooks import signatures
from tests.integration.webhook_delivery.post import MASTER, Post, numbers_of
from tests.receiver import Receiver, expected_signature, receiving


def test_an_event_arrives_signed_in_the_standards_form(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    (event_id,) = post.announce(7, note="ä")
    post.until(post.courier(), lambda: post.states(endpoint) == ["delivered"])
    (call,) = receiver.calls
    payload = Webhook(post.secrets[endpoint]).verify(call.body, call.headers)
    assert (payload["type"], payload["data"]) == ("certificate.issued", {"number": 7, "note": "ä"})
    assert set(payload) == {"type", "timestamp", "data"}
    assert call.headers["webhook-signature"] == expected_signature(post.secrets[endpoint], call)
    assert call.headers["webhook-id"] == event_id
    assert call.headers["content-type"] == "application/json"
    assert abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60
    canonical = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert call.body == canonical
    (row,) = post.rows(endpoint)
    assert (row.attempts, row.last_status, row.last_error, row.next_at) == (1, 204, None, None)


def test_events_arrive_in_their_order(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    post.announce(*range(30))
    post.until(post.courier(), lambda: post.states(endpoint) == ["delivered"] * 30)
    assert numbers_of(receiver.calls) == list(range(30))


def test_after_an_outage_everything_arrives_under_its_old_id_with_a_new_timestamp(
    post: Post, receiver: Receiver
) -> None:
    endpoint = post.endpoint(receiver.url)
    broken = threading.Event()
    broken.set()
    receiver.answer = lambda _: (500 if broken.is_set() else 200, {})
    ids = post.announce(1, 2)
    courier = post.courier()
    # An attempt counts when it begins; how it ended is known a little later.
    refused = [(1, "status_refused")] * 2
    post.until(courier, lambda: [(row.attempts, row.last_error) for row in post.rows(endpoint)] == refused)
    broken.clear()
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 2)
    took = [call.headers["webhook-id"] for call in receiver.calls]
    assert set(took) == set(ids)
    assert len(took) >= 4
    for call in receiver.calls:
        Webhook(post.secrets[endpoint]).verify(call.body, call.headers)


def test_after_the_last_attempt_a_delivery_is_dead_and_the_log_says_so(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (503, {})
    post.announce(1)
    post.until(post.courier(), lambda: post.states(endpoint) == ["dead"])
    (row,) = post.rows(endpoint)
    assert (row.attempts, row.last_status, row.next_at) == (3, 503, None)
    assert len(receiver.calls) == 3
    assert post.actions(f"webhook/{endpoint}") == ["webhook.created", "webhook.dead_lettered"]


def test_a_dead_delivery_is_replayed_with_all_its_attempts(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (500, {})
    post.announce(1)
    courier = post.courier()
    post.until(courier, lambda: post.states(endpoint) == ["dead"])
    receiver.answer = lambda _: (200 if len(receiver.calls) > 4 else 500, {})
    with post.database.writing() as session:
        row = post.rows(endpoint)[0]
        deliveries.replay(session, session.get_one(WebhookEndpoint, endpoint), session.merge(row))
    post.until(courier, lambda: post.states(endpoint) == ["delivered"])
    assert post.rows(endpoint)[0].attempts == 2
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 1
    assert post.actions(f"webhook/{endpoint}")[-1] == "webhook.replayed"


def _replay_since(post: Post, endpoint: str, **given: Any) -> int:
    with post.database.writing() as session:
        row = session.get_one(WebhookEndpoint, endpoint)
        return deliveries.replay_since(session, row, now() - timedelta(hours=1), **given)[0]


def test_a_replay_brings_everything_since_in_order_and_what_was_missed_while_disabled(
    post: Post, receiver: Receiver
) -> None:
    endpoint, other = post.endpoint(receiver.url), post.endpoint(receiver.url, events=("request.denied",))
    courier = post.courier()
    post.announce(0, 1)
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 2)
    _enable(post, endpoint, enabled=False)
    post.announce(2)
    post.until(courier, lambda: not _not_fanned_out(post))
    assert len(post.rows(endpoint)) == 2
    _enable(post, endpoint, enabled=True)
    assert _replay_since(post, endpoint, include_delivered=False) == 1
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 3)
    assert numbers_of(receiver.calls) == [0, 1, 2]
    assert _replay_since(post, endpoint, include_delivered=True) == 3
    post.until(courier, lambda: len(receiver.calls) == 6 and post.states(endpoint) == ["delivered"] * 3)
    assert numbers_of(receiver.calls) == [0, 1, 2, 0, 1, 2]
    assert post.rows(other) == []


def test_a_large_replay_says_where_to_go_on(post: Post, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.deliveries.MOST_REPLAYED", 2)
    endpoint = post.endpoint(receiver.url)
    post.announce(0, 1, 2)
    courier = post.courier()
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 3)
    since, counts = now() - timedelta(hours=1), []
    for _ in range(5):
        with post.database.writing() as session:
            row = session.get_one(WebhookEndpoint, endpoint)
            count, rest = deliveries.replay_since(session, row, since, include_delivered=True)
        counts.append(count)
        if rest is None:
            break
        since = rest
    assert counts == [2, 2, 1]


def _enable(post: Post, endpoint: str, *, enabled: bool) -> None:
    with post.database.writing() as session:
        webhooks.change(session, session.get_one(WebhookEndpoint, endpoint), {"enabled": enabled}, host=None)


def _not_fanned_out(post: Post) -> list[str]:
    with post.database.reading() as session:
        return list(session.scalars(select(WebhookEvent.id).where(~WebhookEvent.fanned_out)))


def test_a_receiver_that_is_gone_is_called_no_more_until_it_is_enabled(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (410, {})
    post.announce(1, 2)
    courier = post.courier()
    post.until(courier, lambda: "dead" in post.states(endpoint))
    for _ in range(5):
        courier.turn(post.parts)
    assert sorted(post.states(endpoint)) == ["dead", "pending"]
    assert len(receiver.calls) == 1
    with post.database.reading() as session:
        row = session.get_one(WebhookEndpoint, endpoint)
    assert (row.enabled, row.disabled_reason) == (False, "receiver_gone")
    assert post.actions(f"webhook/{endpoint}") == ["webhook.created", "webhook.dead_lettered", "webhook.changed"]
    receiver.answer = lambda _: (200, {})
    _enable(post, endpoint, enabled=True)
    post.until(courier, lambda: sorted(post.states(endpoint)) == ["dead", "delivered"])


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_that_asks_for_time_is_given_it(post: Post, receiver: Receiver, status: int) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (status, {"retry-after": "3600"})
    post.announce(1)
    post.until(post.courier(), lambda: [row.last_status for row in post.rows(endpoint)] == [status])
    (row,) = post.rows(endpoint)
    assert row.next_at is not None
    assert timedelta(minutes=59) < row.next_at - now() <= timedelta(hours=1)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_that_says_so(post: Post, receiver: Receiver, status: int) -> None:
    with receiving() as elsewhere:
        endpoint = post.endpoint(receiver.url)
        receiver.answer = lambda _: (status, {"location": elsewhere.url})
        post.announce(1)
        post.until(post.courier(), lambda: post.states(endpoint) == ["dead"])
    (row,) = post.rows(endpoint)
    assert (row.last_error, row.last_status) == ("redirect_refused", status)
    assert elsewhere.calls == []


def test_while_secrets_overlap_both_sign_and_then_the_new_one_alone(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    old, new = post.secrets[endpoint], signatures.new_secret()
    sealed = signatures.seal(bytes.fromhex(MASTER), endpoint, new)
    with post.database.writing() as session:
        row = session.get_one(WebhookEndpoint, endpoint)
        webhooks.rotate(session, row, sealed, previous_until=now() + timedelta(hours=1))
    courier = post.courier()
    post.announce(1)
    post.until(courier, lambda: post.states(endpoint) == ["delivered"])
    with post.database.writing() as session:
        session.get_one(WebhookEndpoint, endpoint).previous_secret_until = now()
    post.announce(2)
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 2)
    both, alone = receiver.calls
    assert both.headers["webhook-signature"] == f"{expected_signature(new, both)} {expected_signature(old, both)}"
    assert alone.headers["webhook-signature"] == expected_signature(new, alone)


def test_a_secret_that_cannot_be_read_sends_nothing_unsigned(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    with post.database.writing() as session:
        session.get_one(WebhookEndpoint, endpoint).secret = b"\0" * 60
    post.announce(1)
    post.until(post.courier(), lambda: post.states(endpoint) == ["dead"])
    assert post.rows(endpoint)[0].last_error == "secret_unreadable"
    assert receiver.calls == []


def test_what_breaks_inside_counts_as_an_attempt_too(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    post.announce(1, too_large=2**60)  # canonical JSON knows no such number
    post.until(post.courier(), lambda: post.states(endpoint) == ["dead"])
    assert post.rows(endpoint)[0].last_error == "internal_error"


@pytest.mark.parametrize("asked", ["Wed, 01 May 99999999999999999999 12:00:00 GMT"])
def test_a_receiver_that_asks_for_nonsense_is_given_up_as_any_other(post: Post, receiver: Receiver, asked: str) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (503, {"Retry-After": asked})
    courier = post.courier()
    post.announce(1)
    post.until(courier, lambda: post.states(endpoint) == ["dead"], seconds=10)
