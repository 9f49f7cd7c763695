"""Controls carry the forget set's labels, one for one, without repeats."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.unseen_controls import draw_controls, in_rounds
from workers.reproducibility import generator_for

label_lists = st.lists(st.integers(0, 4), max_size=40).map(lambda x: torch.tensor(x, dtype=torch.int64))


@given(label_lists, label_lists, st.integers(0, 5))
def test_pairs_share_labels_and_use_each_position_once(forget: torch.Tensor, audit: torch.Tensor, seed: int) -> None:
    pairs = draw_controls(forget, audit, generator=generator_for(seed))
    assert torch.equal(forget[pairs.forget], audit[pairs.audit])
    assert len(set(pairs.forget.tolist())) == len(set(pairs.audit.tolist())) == len(pairs)


@given(label_lists, label_lists)
def test_every_class_keeps_the_smaller_of_its_two_counts(forget: torch.Tensor, audit: torch.Tensor) -> None:
    pairs = draw_controls(forget, audit, generator=generator_for(0))
    counts = torch.bincount(forget[pairs.forget], minlength=5)
    wanted = torch.minimum(torch.bincount(forget, minlength=5), torch.bincount(audit, minlength=5))
    assert torch.equal(counts, wanted)


def test_equal_seeds_draw_equal_pairs_and_others_differ() -> None:
    labels = torch.arange(100) % 5
    first, again, other = (draw_controls(labels, labels, generator=generator_for(s)) for s in (1, 1, 2))
    assert torch.equal(first.audit, again.audit)
    assert torch.equal(first.forget, again.forget)
    assert not torch.equal(first.audit, other.audit)


def test_the_limit_cuts_both_sides() -> None:
    labels = torch.arange(100) % 5
    pairs = draw_controls(labels, labels, generator=generator_for(0), limit=7)
    assert len(pairs.forget) == len(pairs.audit) == 7


def test_the_choice_among_too_many_is_not_the_first_ones() -> None:
    audit = torch.zeros(1000, dtype=torch.int64)
    pairs = draw_controls(torch.zeros(50, dtype=torch.int64), audit, generator=generator_for(0))
    assert int(pairs.audit.max()) > 500


def test_labels_are_left_alone() -> None:
    forget, audit = torch.arange(20) % 3, torch.arange(30) % 3
    copies = forget.clone(), audit.clone()
    draw_controls(forget, audit, generator=generator_for(0))
    assert torch.equal(forget, copies[0])
    assert torch.equal(audit, copies[1])


@given(label_lists, label_lists, st.integers(0, 5))
def test_further_rounds_have_the_same_labels_and_repeat_no_control(
    forget: torch.Tensor, audit: torch.Tensor, seed: int
) -> None:
    pairs = draw_controls(forget, audit, generator=generator_for(seed))
    more = in_rounds(pairs, forget, audit, generator=generator_for(seed))
    assert torch.equal(more.forget, pairs.forget)
    assert torch.equal(more.audit[: len(pairs)], pairs.audit)
    assert len(set(more.audit.tolist())) == len(more.audit)
    if not len(pairs):
        return
    rounds, left = divmod(len(more.audit), len(pairs))
    assert left == 0
    wanted = forget[pairs.forget].sort().values
    for k in range(rounds):
        assert torch.equal(audit[more.audit[k * len(pairs) : (k + 1) * len(pairs)]].sort().values, wanted)


@given(label_lists, label_lists)
def test_no_whole_round_is_left_over(forget: torch.Tensor, audit: torch.Tensor) -> None:
    pairs = draw_controls(forget, audit, generator=generator_for(0))
    more = in_rounds(pairs, forget, audit, generator=generator_for(0))
    if len(pairs):
        asked, there = torch.bincount(forget[pairs.forget], minlength=5), torch.bincount(audit, minlength=5)
        used = torch.bincount(audit[more.audit], minlength=5)
        assert bool((there - used < asked)[asked > 0].any())
