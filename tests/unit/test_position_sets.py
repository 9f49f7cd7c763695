"""A packed set of places is exactly the set."""

from hypothesis import given
from hypothesis import strategies as st

from service.store.position_sets import holds_any, pack, with_more

PLACES = st.sets(st.integers(0, 3000))


@given(PLACES, PLACES)
def test_a_packed_set_holds_its_places_and_no_others(inside: set[int], asked: set[int]) -> None:
    assert holds_any(pack(inside), asked) == bool(inside & asked)


@given(PLACES)
def test_equal_sets_are_packed_alike(places: set[int]) -> None:
    assert pack(sorted(places)) == pack(sorted(places, reverse=True))


@given(PLACES, PLACES)
def test_places_can_be_added(places: set[int], more: set[int]) -> None:
    assert with_more(pack(places), more) == pack(places | more)


def test_a_million_places_take_little_room() -> None:
    assert len(pack(range(1_000_000))) < 2_000
