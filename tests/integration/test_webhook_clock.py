"""A clock that was ahead and is set right again keeps no webhook delivery waiting for the moment that it wrote."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, select

from service.settings import Settings
from service.store import deliveries, fanning_out, keys, outbox, putting_off, webhooks
from service.store.deliveries import Claim
from service.store.session import Database
from service.store.tables import WebhookDelivery, WebhookEndpoint, WebhookEvent
from service.store.types import now
from service.webhooks import schedule, signatures
from tests.clock import Clock
from tests.migrated import bring_to_head

DAY, SLACK, LONGEST = 86_400.0, timedelta(seconds=5), timedelta(days=1, hours=5)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("webhook-clock"), database_url=url)
    bring_to_head(settings.resolved_database_url)
    found = Database.open(settings)
    yield found
    found.dispose()


@dataclass
class Post:
    database: Database
    clock: Clock
    endpoint: str

    def announce(self, *numbers: int) -> None:
        for number in numbers:
            with self.database.writing() as session:
                outbox.announce(session, "certificate.issued", {"number": number})
        with self.database.writing() as session:
            fanning_out.fan_out(session)

    def claim(self) -> Claim | None:
        with self.database.writing() as session:
            return deliveries.claim(session, self.endpoint, seconds=35)

    def fail(self, claim: Claim, *, wait: float) -> None:
        with self.database.writing() as session:
            deliveries.failed(session, claim, error="status_refused", status=500, wait=wait)

    def set_right(self) -> int:
        return putting_off.set_right(self.database, slack=SLACK, longest=LONGEST)

    def row(self) -> WebhookDelivery:
        with self.database.reading() as session:
            return session.scalars(select(WebhookDelivery)).one()


@pytest.fixture(scope="module")
def clock(database: Database) -> Clock:
    """One for each database, since it gives identifiers too."""
    return Clock()


@pytest.fixture
def post(database: Database, clock: Clock) -> Iterator[Post]:
    with clock.installed():
        endpoint_id = webhooks.new_endpoint_id()
        sealed = signatures.seal(b"k" * 32, endpoint_id, signatures.new_secret())
        with database.writing() as session:
            key, _ = keys.create(session, name="receiver", scopes=["admin"])
            given: dict[str, Any] = {"host": "h", "description": "", "events": ["*"], "url": "https://h/"}
            webhooks.create(session, endpoint_id=endpoint_id, key_id=key.id, secret=sealed, **given)
        yield Post(database, clock, endpoint_id)
        with database.writing() as session:
            session.execute(delete(WebhookEndpoint))
            session.execute(delete(WebhookEvent))


def _next(post: Post) -> datetime:
    found = post.row().next_at
    assert found is not None
    return found


def test_events_of_a_clock_that_was_ahead_are_sent_at_once_in_their_order(post: Post) -> None:
    post.clock.advance(DAY)
    post.announce(1, 2, 3)
    post.clock.advance(-DAY)
    assert post.claim() is None
    assert post.set_right() == 3
    claims = [claim for _ in range(4) if (claim := post.claim())]
    assert [claim.data["number"] for claim in claims] == [1, 2, 3]


def test_a_delivery_put_off_by_a_clock_that_was_ahead_waits_as_long_as_it_was_to(post: Post) -> None:
    post.clock.advance(400 * DAY)
    post.announce(1)
    claim = post.claim()
    assert claim is not None
    post.fail(claim, wait=300)
    post.clock.advance(-400 * DAY)
    assert post.set_right() == 1
    assert now() + timedelta(seconds=290) < _next(post) <= now() + timedelta(seconds=310)
    assert post.set_right() == 0  # once: it does not begin to wait anew each time
    post.clock.advance(310)
    again = post.claim()
    assert again is not None
    assert again.attempt == 2


def test_one_that_is_being_sent_while_the_clock_is_set_back_is_not_sent_a_second_time(post: Post) -> None:
    post.clock.advance(DAY)
    post.announce(1)
    claim = post.claim()
    assert claim is not None
    post.clock.advance(-DAY)
    post.set_right()
    assert post.claim() is None
    with post.database.writing() as session:
        deliveries.delivered(session, claim, 200)
    assert post.row().state == "delivered"


def test_where_the_clock_went_ahead_during_the_sending_the_longest_wait_is_the_bound(post: Post) -> None:
    post.announce(1)
    claim = post.claim()
    assert claim is not None
    post.clock.advance(400 * DAY)
    post.fail(claim, wait=300)
    post.clock.advance(-400 * DAY)
    assert post.set_right() == 1
    assert _next(post) <= now()


def test_waits_of_a_clock_that_was_right_and_of_one_a_little_ahead_stay(post: Post) -> None:
    post.announce(1)
    claim = post.claim()
    assert claim is not None
    post.fail(claim, wait=DAY)
    before = _next(post)
    assert post.set_right() == 0
    post.clock.advance(-SLACK.total_seconds() + 1)
    assert post.set_right() == 0
    assert _next(post) == before


def test_looking_for_what_a_wrong_clock_put_off_is_one_statement_where_there_is_nothing(post: Post) -> None:
    ran: list[str] = []

    def note(*given: Any) -> None:
        ran.append(given[2])

    event.listen(post.database.engine, "before_cursor_execute", note)
    try:
        post.set_right()
    finally:
        event.remove(post.database.engine, "before_cursor_execute", note)
    assert len([each for each in ran if each.lstrip().startswith("SELECT")]) == len(ran) == 1


def test_no_wait_is_longer_than_the_longest(tmp_path: Path) -> None:
    waits = Settings(data_dir=tmp_path).webhook_waits
    longest = schedule.longest(waits)
    for attempt in range(1, len(waits) + 1):
        found = schedule.wait(waits, attempt, asked=1e9, uniform=lambda _, most: most)
        assert found is not None
        assert found <= longest


def _endpoint(post: Post) -> str:
    endpoint_id = webhooks.new_endpoint_id()
    sealed = signatures.seal(b"k" * 32, endpoint_id, signatures.new_secret())
    with post.database.writing() as session:
        # With the key of the other, so that the endpoint's entry is the very next in the log.
        key_id = session.get_one(WebhookEndpoint, post.endpoint).key_id
        given: dict[str, Any] = {"host": "h", "description": "", "events": ["*"], "url": "https://h/"}
        webhooks.create(session, endpoint_id=endpoint_id, key_id=key_id, secret=sealed, **given)
    return endpoint_id


def _heard(post: Post, endpoint_id: str) -> list[int]:
    query = (
        select(WebhookEvent.data)
        .join(WebhookDelivery, WebhookDelivery.event_id == WebhookEvent.id)
        .where(WebhookDelivery.endpoint_id == endpoint_id)
    )
    with post.database.reading() as session:
        return sorted(data["number"] for data in session.scalars(query))


def _replay(post: Post, endpoint_id: str) -> int:
    with post.database.writing() as session:
        endpoint = session.get_one(WebhookEndpoint, endpoint_id)
        since = now() - timedelta(days=800)
        return deliveries.replay_since(session, endpoint, since, include_delivered=False)[0]


@pytest.mark.parametrize("seconds", [300, 3600, 40 * DAY])
def test_an_endpoint_younger_than_the_jump_hears_of_what_happens_while_the_clock_is_behind(
    post: Post, seconds: float
) -> None:
    post.clock.advance(-seconds)
    post.announce(1, 2)
    assert _heard(post, post.endpoint) == [1, 2]
    assert post.claim() is not None, "and at once"


def test_an_endpoint_hears_of_nothing_that_came_before_it_whatever_the_clock_said_then(post: Post) -> None:
    post.clock.advance(DAY)
    with post.database.writing() as session:
        outbox.announce(session, "certificate.issued", {"number": 1})
    post.clock.advance(-DAY)
    younger = _endpoint(post)
    post.announce(2)
    assert (_heard(post, post.endpoint), _heard(post, younger)) == ([1, 2], [2])
    post.clock.advance(2 * DAY)
    assert _replay(post, younger) == 1, "what it has, and no more"


def test_what_was_missed_while_the_clock_was_behind_is_replayed(post: Post) -> None:
    with post.database.writing() as session:
        session.get_one(WebhookEndpoint, post.endpoint).enabled = False
    post.clock.advance(-3600)
    post.announce(1)
    assert _heard(post, post.endpoint) == []
    with post.database.writing() as session:
        session.get_one(WebhookEndpoint, post.endpoint).enabled = True
    assert _replay(post, post.endpoint) == 1
    assert _heard(post, post.endpoint) == [1]


@pytest.mark.parametrize(("seconds", "heard"), [(10, [1]), (-10, [])])
def test_events_of_earlier_releases_which_do_not_tell_their_place_go_by_their_time(
    post: Post, seconds: float, heard: list[int]
) -> None:
    with post.database.writing() as session:
        at = now() + timedelta(seconds=seconds)
        session.add(WebhookEvent(id="evt_old", type="certificate.issued", data={"number": 1}, time=at))
    with post.database.writing() as session:
        fanning_out.fan_out(session)
    assert _heard(post, post.endpoint) == heard
