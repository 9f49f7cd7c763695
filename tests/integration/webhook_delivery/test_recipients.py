"""An endpoint hears what it asked for and its key may read, from when it is there until it is over."""

import pytest

from service.store import keys
from service.store.tables import ApiKey, WebhookEndpoint
from service.store.types import now
from tests.integration.webhook_delivery.post import Post, numbers_of
from tests.receiver import Received, Receiver


def test_an_endpoint_hears_what_it_asked_for_and_its_key_may_read(post: Post, receiver: Receiver) -> None:
    every = post.endpoint(receiver.url)
    some = post.endpoint(receiver.url, events=("request.denied",))
    reader = post.endpoint(receiver.url, scopes=("webhooks", "models:read"))
    courier = post.courier()
    post.announce(1, kind="request.denied")
    post.announce(2, kind="version.purged")
    post.until(courier, lambda: post.states(every) == ["delivered"] * 2)
    post.until(courier, lambda: [*post.states(some), *post.states(reader)] == ["delivered"] * 2)
    assert sorted(numbers_of(receiver.calls)) == [1, 1, 2, 2]


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


def test_an_endpoint_hears_nothing_of_what_was_before_it(post: Post, receiver: Receiver) -> None:
    first = post.endpoint(receiver.url)
    post.announce(1)
    second = post.endpoint(receiver.url)
    post.until(post.courier(), lambda: post.states(first) == ["delivered"])
    assert post.rows(second) == []
