"""Places of samples and seeds of stages: known answers, spread, and independence of what else there is."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.catalogue.recipe import MAX_SEED, MAX_SHARDS, Recipe, Sharding
from workers.sharding import places_of, splitmix, stage_seed

WORD = 2**64


def _splitmix(state: int) -> int:
    """The published generator's step, in whole numbers without a sign."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def test_the_hash_gives_the_published_outputs() -> None:
    """The generator seeded with 1234567 adds its constant before each output; so does the first one from 0."""
    gamma = 0x9E3779B97F4A7C15 - WORD
    states = torch.tensor([0, 1234567, 1234567 + gamma, 1234567 + 2 * gamma + WORD])
    assert [word % WORD for word in splitmix(states).tolist()] == [
        0xE220A8397B1DCDAF,
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_the_vectorised_hash_equals_the_one_in_whole_numbers(states: list[int]) -> None:
    assert [word % WORD for word in splitmix(torch.tensor(states)).tolist()] == [_splitmix(s % WORD) for s in states]


@given(
    positions=st.lists(st.integers(0, 10**9), min_size=1, max_size=60, unique=True),
    shards=st.integers(1, MAX_SHARDS),
    slices=st.integers(1, MAX_SHARDS),
    seed=st.integers(0, MAX_SEED),
)
def test_a_sample_keeps_its_place_whatever_is_erased_around_it(
    positions: list[int], shards: int, slices: int, seed: int
) -> None:
    sharding = Sharding(shards=shards, slices=slices)
    together = places_of(torch.tensor(positions), sharding, seed=seed)
    assert all(0 <= s < shards for s in together.shard.tolist())
    assert all(1 <= s <= slices for s in together.slice.tolist())
    for i, position in enumerate(positions):
        alone = places_of(torch.tensor([position]), sharding, seed=seed)
        assert (int(alone.shard), int(alone.slice)) == (int(together.shard[i]), int(together.slice[i]))


def test_samples_spread_evenly_over_shards_and_slices_and_the_two_are_independent() -> None:
    places = places_of(torch.arange(64_000), Sharding(shards=8, slices=8), seed=0)
    counts = torch.bincount(places.shard * 8 + places.slice - 1, minlength=64)
    # chi-square with 63 degrees of freedom: mean 63, standard deviation about 11
    assert float(((counts - 1000).square() / 1000).sum()) < 63 + 5 * math.sqrt(2 * 63)


def test_another_seed_places_samples_anew() -> None:
    sharding = Sharding(shards=8, slices=1)
    first, second = (places_of(torch.arange(8000), sharding, seed=seed).shard for seed in (0, 1))
    assert float((first == second).double().mean()) == pytest.approx(1 / 8, abs=0.02)


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_every_stage_has_a_seed_of_its_own_and_the_first_has_the_models(seed: int) -> None:
    numbers = product(range(MAX_SHARDS), range(1, MAX_SHARDS + 1))
    seeds = [stage_seed(seed, shard=shard, stage=stage) for shard, stage in numbers]
    assert seeds[0] == seed
    assert len(set(seeds)) == MAX_SHARDS**2
    assert all(0 <= s <= MAX_SEED for s in seeds)


@pytest.mark.parametrize("given", [{"shards": 0, "slices": 1}, {"shards": 1, "slices": 65}, {"shards": 2}, {"n": 1}])
def test_a_recipe_refuses_shards_and_slices_out_of_bounds(given: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({"sisa": given})
    assert Recipe.model_validate({"sisa": {"shards": 64, "slices": 1}}).sisa == Sharding(shards=64, slices=1)
