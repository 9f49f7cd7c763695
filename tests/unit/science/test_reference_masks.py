"""Reference models are trained on balanced halves: each sample in exactly half of them, classes and sizes even."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.reference_masks import balanced_halves
from workers.reproducibility import generator_for

label_lists = st.lists(st.integers(0, 4), max_size=60).map(lambda x: torch.tensor(x, dtype=torch.int64))
even_counts = st.sampled_from([2, 4, 6, 8, 16])


@given(label_lists, even_counts, st.integers(0, 5))
def test_every_sample_is_in_for_exactly_half_of_the_references(labels: torch.Tensor, models: int, seed: int) -> None:
    mask = balanced_halves(labels, models, generator=generator_for(seed))
    assert mask.dtype == torch.bool
    assert mask.shape == (models, len(labels))
    assert (mask.sum(0) == models // 2).all()


@given(label_lists, even_counts, st.integers(0, 5))
def test_sizes_differ_by_one_at_most_over_all_and_within_each_class(
    labels: torch.Tensor, models: int, seed: int
) -> None:
    mask = balanced_halves(labels, models, generator=generator_for(seed))
    for part in (torch.ones_like(labels, dtype=torch.bool), *(labels == label for label in torch.unique(labels))):
        sizes = mask[:, part].sum(1).tolist()
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == models // 2 * int(part.sum())


def test_equal_seeds_give_equal_halves_and_others_differ() -> None:
    labels = torch.arange(100) % 5
    first, again, other = (balanced_halves(labels, 8, generator=generator_for(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 8


def test_each_choice_of_half_the_references_is_equally_likely_for_a_sample() -> None:
    """Chi-squared over the 6 choices of 2 of 4, at two fixed samples of 3,000 draws."""
    generator, draws = generator_for(0), 3000
    masks = torch.stack([balanced_halves(torch.tensor([0, 1, 0, 1, 1]), 4, generator=generator) for _ in range(draws)])
    for position in (0, 4):
        seen = [tuple(column.nonzero().flatten().tolist()) for column in masks[:, :, position]]
        counts = [seen.count(choice) for choice in combinations(range(4), 2)]
        expected = draws / math.comb(4, 2)
        # 20.5 is the 99.9th percentile with 5 degrees of freedom
        assert sum((count - expected) ** 2 / expected for count in counts) < 20.5


@pytest.mark.parametrize("models", [-2, 0, 1, 3])
def test_an_odd_number_of_references_is_refused(models: int) -> None:
    with pytest.raises(ValueError, match="even and at least 2"):
        balanced_halves(torch.zeros(4, dtype=torch.int64), models, generator=generator_for(0))


def test_labels_are_left_alone() -> None:
    labels = torch.arange(20) % 3
    copy = labels.clone()
    balanced_halves(labels, 4, generator=generator_for(0))
    assert torch.equal(labels, copy)
