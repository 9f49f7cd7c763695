"""Deliveries: signed, in order, at least once, tried again, dead in the end, replayed; nothing slow holds up others."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import delete, event, select, update
from standardwebhooks import Webhook

from service import migrate
from service.deps import Parts
from service.settings import Settings
from service.store import audit, deliveries, keys, outbox, webhooks
from service.store.session import Database
from service.store.tables import ApiKey, WebhookDelivery, WebhookEndpoint, WebhookEvent
from service.store.types import now
from service.webhooks import signatures
from service.webhooks.courier import Courier
from service.webhooks.targets import Allowed, Guard
from tests.receiver import Received, Receiver, authority, expected_signature, receiving

MASTER = "ab" * 32


@dataclass
class Post:
    """A store, and couriers that are turned by hand."""

    parts: Parts
    couriers: list[Courier] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.parts.database

    def courier(self, **given: Any) -> Courier:
        found = Courier(self.parts, **given)
        self.couriers.append(found)
        return found

    def endpoint(self, url: str, *, scopes: tuple[str, ...] = ("admin",), events: tuple[str, ...] = ("*",)) -> str:
        """Add an endpoint with a key of its own."""
        secret, endpoint_id = signatures.new_secret(), webhooks.new_endpoint_id()
        sealed = signatures.seal(bytes.fromhex(MASTER), endpoint_id, secret)
        with self.database.writing() as session:
            key, _ = keys.create(session, name="receiver", scopes=list(scopes))
            given: dict[str, Any] = {"host": "h", "description": "", "events": list(events)}
            webhooks.create(session, endpoint_id=endpoint_id, key_id=key.id, url=url, secret=sealed, **given)
        self.secrets[endpoint_id] = secret
        return endpoint_id

    def announce(self, *numbers: int, kind: str = "certificate.issued", **data: Any) -> list[str]:
        found = []
        for number in numbers:
            with self.database.writing() as session:
                found.append(outbox.announce(session, kind, {"number": number, **data}))
        return found

    def rows(self, endpoint_id: str) -> list[WebhookDelivery]:
        with self.database.reading() as session:
            return [row for row, _ in deliveries.page(session, endpoint_id, before=None, limit=1000)][::-1]

    def until(self, courier: Courier, done: Callable[[], Any], seconds: float = 60) -> None:
        """Turn the courier until something holds."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it did not come about"
            courier.turn(self.parts)
            time.sleep(0.02)

    def actions(self, subject: str) -> list[str]:
        with self.database.reading() as session:
            return [entry.action for entry in audit.find(session, limit=10_000) if entry.subject == subject]

    def states(self, endpoint_id: str) -> list[str]:
        return [row.state for row in self.rows(endpoint_id)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("post"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Database.open(settings)
    yield found
    found.dispose()


@pytest.fixture
def post(database: Database, tmp_path: Path) -> Iterator[Post]:
    settings = Settings(
        data_dir=tmp_path,
        master_key=MASTER,
        webhook_allowed_hosts="127.0.0.1",
        webhook_retry_seconds="0.05,0.05",
        webhook_timeout_seconds=1,
        webhook_workers=4,
    )
    found = Post(parts=Parts(settings=settings, database=database, artifacts=Mock(), bell=Mock(), secrets=Mock()))
    yield found
    for courier in found.couriers:
        courier.stop()
    with database.writing() as session:
        session.execute(delete(WebhookEndpoint))
        session.execute(delete(WebhookEvent))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def _numbers(calls: list[Received]) -> list[int]:
    return [json.loads(call.body)["data"]["number"] for call in calls]


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
    assert _numbers(receiver.calls) == list(range(30))


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
    assert _numbers(receiver.calls) == [0, 1, 2]
    assert _replay_since(post, endpoint, include_delivered=True) == 3
    post.until(courier, lambda: len(receiver.calls) == 6 and post.states(endpoint) == ["delivered"] * 3)
    assert _numbers(receiver.calls) == [0, 1, 2, 0, 1, 2]
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


def test_a_slow_receiver_does_not_hold_up_others(post: Post, receiver: Receiver) -> None:
    with receiving() as slow:
        release = threading.Event()
        slow.answer = lambda _: (200 if release.wait(30) else 500, {})
        slow_one, quick_one = post.endpoint(slow.url), post.endpoint(receiver.url)
        courier = post.courier()
        post.announce(1)
        post.until(courier, lambda: slow.calls)
        post.announce(*range(2, 12))
        post.until(courier, lambda: post.states(quick_one) == ["delivered"] * 11)
        assert "delivered" not in post.states(slow_one)
        release.set()
        post.until(courier, lambda: post.states(slow_one) == ["delivered"] * 11)


def test_a_turn_waits_for_no_receiver(post: Post) -> None:
    with receiving() as slow:
        release = threading.Event()
        slow.answer = lambda _: (200 if release.wait(30) else 500, {})
        post.endpoint(slow.url)
        post.announce(1)
        patient = post.parts.settings.model_copy(update={"webhook_timeout_seconds": 60})
        courier = Courier(replace(post.parts, settings=patient))
        post.couriers.append(courier)
        start = time.monotonic()
        courier.turn(post.parts)
        assert time.monotonic() - start < 20, "the receiver answers after 30 s"
        release.set()


def test_what_a_process_that_ended_was_at_is_sent_again(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    post.announce(1)
    courier = post.courier()
    with post.database.writing() as session:
        assert not deliveries.claim(session, endpoint, seconds=60), "not fanned out"
    courier._fan_out()
    with post.database.writing() as session:
        lost = deliveries.claim(session, endpoint, seconds=0.3)
        assert lost is not None
        assert deliveries.claim(session, endpoint, seconds=60) is None, "somebody is at it"
    post.until(courier, lambda: post.states(endpoint) == ["delivered"])
    with post.database.writing() as session:
        deliveries.failed(session, lost, error="timeout", status=None, wait=None)
    assert post.states(endpoint) == ["delivered"], "an outcome that comes late changes nothing"
    assert post.rows(endpoint)[0].attempts == 2


def test_two_couriers_send_nothing_twice(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    post.announce(*range(40))
    first, second = post.courier(), post.courier()

    def both() -> bool:
        second.turn(post.parts)
        return post.states(endpoint) == ["delivered"] * 40

    post.until(first, both)
    assert sorted(_numbers(receiver.calls)) == list(range(40))


def test_a_name_that_resolves_differently_at_delivery_is_refused_and_nothing_is_sent(
    post: Post, receiver: Receiver
) -> None:
    answers = iter([["93.184.215.14"]])
    guard = Guard(allowed=Allowed.parse(""), resolver=lambda *_: next(answers, ["127.0.0.1"]))
    url = "https://rebinding.example:8443/"
    assert guard.target(url).addresses == ("93.184.215.14",), "at registration it is public"
    endpoint = post.endpoint(url)
    post.announce(1)
    post.until(post.courier(guard=guard), lambda: post.states(endpoint) == ["dead"])
    assert {row.last_error for row in post.rows(endpoint)} == {"address_not_public"}


def test_each_delivery_resolves_its_name_once_and_goes_where_that_said(post: Post, receiver: Receiver) -> None:
    asked: list[str] = []

    def resolver(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["192.0.2.1"]

    guard = Guard(allowed=Allowed.parse("hooks.test"), resolver=resolver)
    endpoint = post.endpoint(f"http://hooks.test:{receiver.port}/")
    post.announce(1)
    post.until(post.courier(guard=guard), lambda: post.states(endpoint) == ["delivered"])
    assert asked == ["hooks.test"]
    assert receiver.calls[0].headers["host"] == f"hooks.test:{receiver.port}"


def test_an_event_goes_over_tls_to_a_host_whose_certificate_is_its_own(post: Post, tmp_path: Path) -> None:
    issuer = authority(tmp_path)
    guard = Guard(allowed=Allowed.parse("hooks.test"), resolver=lambda *_: ["127.0.0.1"])
    with receiving(issuer.server_context("hooks.test")) as mine, receiving(issuer.server_context("x.test")) as other:
        good = post.endpoint(f"https://hooks.test:{mine.port}/")
        bad = post.endpoint(f"https://hooks.test:{other.port}/")
        post.announce(1)
        courier = post.courier(guard=guard, ssl_context=issuer.client_context())
        post.until(courier, lambda: [*post.states(good), *post.states(bad)] == ["delivered", "dead"])
    assert post.rows(bad)[0].last_error == "tls_failed"
    assert other.calls == []


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


def test_an_endpoint_hears_what_it_asked_for_and_its_key_may_read(post: Post, receiver: Receiver) -> None:
    every = post.endpoint(receiver.url)
    some = post.endpoint(receiver.url, events=("request.denied",))
    reader = post.endpoint(receiver.url, scopes=("webhooks", "models:read"))
    courier = post.courier()
    post.announce(1, kind="request.denied")
    post.announce(2, kind="version.purged")
    post.until(courier, lambda: post.states(every) == ["delivered"] * 2)
    post.until(courier, lambda: [*post.states(some), *post.states(reader)] == ["delivered"] * 2)
    assert sorted(_numbers(receiver.calls)) == [1, 1, 2, 2]


def test_an_addressed_event_goes_to_its_recipient_and_to_auditors_who_asked_for_all(
    post: Post, receiver: Receiver
) -> None:
    mine = post.endpoint(receiver.url, scopes=("webhooks", "weights:read"), events=("version.withdrawn",))
    other = post.endpoint(receiver.url, scopes=("webhooks", "weights:read"))
    auditor = post.endpoint(receiver.url, scopes=("webhooks", "audit:read"))
    narrow = post.endpoint(receiver.url, scopes=("admin",), events=("version.withdrawn",))
    with post.database.reading() as session:
        recipient = session.get_one(WebhookEndpoint, mine).key_id
    courier = post.courier()
    post.announce(1, kind="version.withdrawn", recipient=recipient)
    post.until(courier, lambda: [*post.states(mine), *post.states(auditor)] == ["delivered"] * 2)
    assert post.states(other) == post.states(narrow) == []


@pytest.mark.parametrize("how", ["revoked_at", "expires_at"])
def test_the_endpoint_of_a_key_that_is_over_hears_nothing(post: Post, receiver: Receiver, how: str) -> None:
    endpoint, other = post.endpoint(receiver.url), post.endpoint(receiver.url)
    courier = post.courier()
    post.announce(1)
    courier._fan_out()
    with post.database.writing() as session:
        setattr(session.get_one(ApiKey, session.get_one(WebhookEndpoint, endpoint).key_id), how, now())
    post.announce(2)
    post.until(courier, lambda: post.states(other) == ["delivered"] * 2)
    assert post.states(endpoint) == ["pending"]
    assert len(receiver.calls) == 2


def test_a_key_that_is_revoked_while_its_deliveries_go_out_hears_no_more(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)

    def revoke_and_answer(_: Received) -> tuple[int, dict[str, str]]:
        with post.database.writing() as session:
            keys.revoke(session, session.get_one(WebhookEndpoint, endpoint).key_id)
        return 204, {}

    receiver.answer = revoke_and_answer
    courier = post.courier()
    post.announce(1, 2)
    post.until(courier, lambda: "delivered" in post.states(endpoint))
    courier.stop()  # ends its thread after what that is at
    assert sorted(post.states(endpoint)) == ["delivered", "pending"]
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("asked", ["Wed, 01 May 99999999999999999999 12:00:00 GMT"])
def test_a_receiver_that_asks_for_nonsense_is_given_up_as_any_other(post: Post, receiver: Receiver, asked: str) -> None:
    endpoint = post.endpoint(receiver.url)
    receiver.answer = lambda _: (503, {"Retry-After": asked})
    courier = post.courier()
    post.announce(1)
    post.until(courier, lambda: post.states(endpoint) == ["dead"], seconds=10)


def test_an_endpoint_hears_nothing_of_what_was_before_it(post: Post, receiver: Receiver) -> None:
    first = post.endpoint(receiver.url)
    post.announce(1)
    second = post.endpoint(receiver.url)
    post.until(post.courier(), lambda: post.states(first) == ["delivered"])
    assert post.rows(second) == []


def test_old_events_go_with_their_deliveries_unless_one_is_still_to_be_sent(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    ids = post.announce(1, 2, 3)
    courier = post.courier()
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] * 3)
    with post.database.writing() as session:
        session.execute(
            update(WebhookEvent).where(WebhookEvent.id.in_(ids[:2])).values(time=now() - timedelta(days=40))
        )
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.event_id == ids[0])
            .values(next_at=now() + timedelta(hours=1), state="pending")
        )
    post.until(post.courier(), lambda: len(post.rows(endpoint)) == 2)
    assert {row.event_id for row in post.rows(endpoint)} == {ids[0], ids[2]}


def test_a_turn_with_nothing_to_do_is_one_statement(post: Post, receiver: Receiver) -> None:
    endpoint = post.endpoint(receiver.url)
    courier = post.courier()
    post.announce(1)
    post.until(courier, lambda: post.states(endpoint) == ["delivered"] and not courier._busy)
    ran: list[str] = []

    def note(*given: Any) -> None:
        ran.append(given[2])

    event.listen(post.database.engine, "before_cursor_execute", note)
    try:
        courier.turn(post.parts)
    finally:
        event.remove(post.database.engine, "before_cursor_execute", note)
    assert len(ran) == 1
