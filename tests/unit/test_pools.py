"""Pools are cut by keyed hash: disjoint, balanced per class, the same for the same key, and not for another."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data import pools
from workers.data.source import SourceArrays

KEY = b"k" * 32


def _source(labels: list[int], splits: list[str] | None = None) -> SourceArrays:
    return SourceArrays(
        sample_ids=[f"s{i}" for i in range(len(labels))],
        images=np.zeros((len(labels), 1, 2, 2), np.uint8),
        labels=np.array(labels, np.int64),
        splits=splits or ["train"] * len(labels),
    )


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200), st.binary(min_size=32, max_size=32))
def test_each_sample_is_in_one_pool_that_fits_its_split(labels: list[int], key: bytes) -> None:
    splits, found = pools.cut(_source(labels), key)
    fits = {"train": {"train"}, "selection": {"validation"}, "audit": {"test"}, "population": {"test"}}
    assert len(splits) == len(found) == len(labels)
    assert all(split in fits[pool] for split, pool in zip(splits, found, strict=True))


@given(st.lists(st.integers(0, 3), min_size=40, max_size=300))
def test_every_class_is_cut_alike(labels: list[int]) -> None:
    splits, found = pools.cut(_source(labels), KEY)
    for label, count in Counter(labels).items():
        mine = Counter(pool for pool, other in zip(found, labels, strict=True) if other == label)
        assert mine["train"] >= 1
        test = mine["audit"] + mine["population"]
        assert test == min(-(-count // 5), count - 1)
        assert 0 <= mine["audit"] - mine["population"] <= 1
        assert mine["selection"] == min(-(-(count - test) // 10), count - test - 1)
    assert set(splits) <= {"train", "validation", "test"}


def test_the_sources_own_splits_are_kept() -> None:
    given_splits = ["train"] * 60 + ["validation"] * 20 + ["test"] * 20
    splits, found = pools.cut(_source([0, 1] * 50, given_splits), KEY)
    assert splits == given_splits
    assert Counter(found) == {"train": 60, "selection": 20, "audit": 10, "population": 10}


def test_the_cut_follows_the_key_and_the_ids_not_the_order() -> None:
    source = _source([0, 1] * 100)
    _, found = pools.cut(source, KEY)
    assert pools.cut(source, KEY)[1] == found
    assert pools.cut(source, b"j" * 32)[1] != found
    order = np.random.default_rng(0).permutation(200)
    _, shuffled = pools.cut(source.take(order), KEY)
    assert [found[i] for i in order] == shuffled


@pytest.mark.parametrize("pool", ["selection", "audit", "population"])
def test_ids_that_follow_one_another_land_apart(pool: str) -> None:
    _, found = pools.cut(_source([0, 1] * 500), KEY)
    where = [i for i, name in enumerate(found) if name == pool]
    assert np.mean(where) == pytest.approx(500, abs=120)
