"""Two acts that meet in one instant: whichever comes first, the laws hold, and what is left open completes."""

from collections.abc import Callable, Iterator

import pytest

from service.settings import Settings
from tests.lifecycle.hands import FAIL, PASS, STORED, WORKING, Act, Hand, together
from tests.lifecycle.world import LEASE_SECONDS, World, world

Pair = Callable[[World], tuple[Act, Act]]


@pytest.fixture
def place(own_settings: Settings) -> Iterator[World]:
    """A world of the test's own, on each database."""
    with world(own_settings.data_dir, own_settings.database_url) as found:
        yield found


def _asked(place: World, *numbers: int, model: str | None = None) -> str:
    found = place.ask(*numbers, models=None if model is None else [model])
    assert found is not None
    return found


def _at(hand: Hand, where: str) -> Hand:
    """Have the worker claim a job and stop in its attempt there."""
    assert hand.take()
    while hand.go_on(PASS) != where:
        pass
    return hand


def _two_claim(place: World) -> tuple[Act, Act]:
    _asked(place, 0, 1)
    return place.hands[0].take, place.hands[1].take


def _two_publish_for_one_request(place: World) -> tuple[Act, Act]:
    _asked(place, 0, 1)
    first, second = (_at(hand, STORED) for hand in place.hands)
    return first.finish, second.finish


def _one_publishes_as_its_lease_is_swept(place: World) -> tuple[Act, Act]:
    _asked(place, 0, model="a")
    hand = _at(place.hands[0], STORED)
    place.clock.advance(LEASE_SECONDS + 1)
    return hand.finish, lambda: place.sweep(1)


def _two_sweep_lost_leases(place: World) -> tuple[Act, Act]:
    _asked(place, 0)
    for hand in place.hands:
        _at(hand, WORKING).crash()
    place.clock.advance(LEASE_SECONDS + 1)
    return lambda: place.sweep(0), lambda: place.sweep(1)


def _one_publishes_as_its_request_is(decision: str) -> Pair:
    def pair(place: World) -> tuple[Act, Act]:
        request_id = _asked(place, 0, 1)
        hand = _at(place.hands[0], STORED)
        return hand.finish, lambda: getattr(place, decision)(request_id)

    return pair


def _one_claims_as_its_request_is(decision: str) -> Pair:
    def pair(place: World) -> tuple[Act, Act]:
        request_id = _asked(place, 0, 1, model="a")
        return place.hands[0].take, lambda: getattr(place, decision)(request_id)

    return pair


def _one_claims_as_another_request_joins(place: World) -> tuple[Act, Act]:
    _asked(place, 0, 1)
    return place.hands[0].take, lambda: place.ask(1, 2)


def _one_publishes_as_the_same_samples_are_asked_for(place: World) -> tuple[Act, Act]:
    _asked(place, 0, 1, model="a")
    hand = _at(place.hands[0], STORED)
    return hand.finish, lambda: place.ask(1, 2)


def _one_publishes_as_weights_are_uploaded(place: World) -> tuple[Act, Act]:
    _asked(place, 0, 1)
    hand = _at(place.hands[0], STORED)
    return hand.finish, lambda: place.upload("a")


def _one_trains_as_another_erases(place: World) -> tuple[Act, Act]:
    _asked(place, 0, model="b")
    erasing = _at(place.hands[0], STORED)
    place.train("a")
    training = _at(place.hands[1], STORED)
    return erasing.finish, training.finish


def _two_ask_for_the_same_samples(place: World) -> tuple[Act, Act]:
    return lambda: place.ask(0, 1), lambda: place.ask(1, 2)


def _one_denies_what_another_holds(place: World) -> tuple[Act, Act]:
    request_id = _asked(place, 0, 1)
    _at(place.hands[0], WORKING)
    return lambda: place.deny(request_id), lambda: place.hold(request_id)


def _one_approves_what_another_tries_again(place: World) -> tuple[Act, Act]:
    _asked(place, 0, model="a")
    hand = place.hands[0]
    while hand.take():
        job_id = hand.claim.job_id if hand.claim else ""
        hand.finish(FAIL)
    return lambda: place.approve_job(job_id), lambda: place.retry(job_id)


PAIRS: tuple[Pair, ...] = (
    _two_claim,
    _two_publish_for_one_request,
    _one_publishes_as_its_lease_is_swept,
    _two_sweep_lost_leases,
    *map(_one_publishes_as_its_request_is, ("deny", "hold", "extend")),
    *map(_one_claims_as_its_request_is, ("cancel", "deny", "hold")),
    _one_claims_as_another_request_joins,
    _one_publishes_as_the_same_samples_are_asked_for,
    _one_publishes_as_weights_are_uploaded,
    _one_trains_as_another_erases,
    _two_ask_for_the_same_samples,
    _one_denies_what_another_holds,
    _one_approves_what_another_tries_again,
)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_acts_in_one_instant_break_no_law_and_lose_no_request(place: World, pair: Pair) -> None:
    acts = pair(place)
    place.check()
    together(*acts)
    place.check()
    place.drain()
