"""Couriers wait for no receiver, send nothing twice, and call only where a name may lead."""

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, update

from service.store import deliveries
from service.store.tables import WebhookDelivery, WebhookEvent
from service.store.types import now
from service.webhooks.courier import Courier
from service.webhooks.targets import Allowed, Guard
from tests.integration.webhook_delivery.post import Post, numbers_of
from tests.receiver import Receiver, authority, receiving


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
    assert sorted(numbers_of(receiver.calls)) == list(range(40))


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
