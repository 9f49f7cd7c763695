"""Divergences: bounds and symmetry, forms written out apart from the code, and the traps of argument order."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from workers.evaluation.intervals import Floats
from workers.evaluation.js_divergence import jensen_shannon, js_divergence
from workers.evaluation.klom import klom, klom_per_sample, margins
from workers.evaluation.rf_jsd import rf_jsd

DRAWS = 1000
LN2 = math.log(2)
distributions = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda x: sum(x) > 1e-3)


def _js_by_hand(p: list[float], q: list[float]) -> float:
    total = 0.0
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        if m:
            total += (a * math.log(a / m) if a else 0.0) + (b * math.log(b / m) if b else 0.0)
    return total / 2


@example(p=[0.0, 0.0, 0.0, 1.0], q=[0.0, 0.0, 5e-324, 1.0])
@given(p=distributions, q=distributions)
def test_js_is_symmetric_bounded_by_ln_2_and_its_definition(p: list[float], q: list[float]) -> None:
    p, q = ([x / sum(side) for x in side] for side in (p, q))
    one, other = (torch.tensor([side], dtype=torch.float64) for side in (p, q))
    found = float(jensen_shannon(one, other))
    assert found == pytest.approx(float(jensen_shannon(other, one)), abs=1e-12)
    assert found == pytest.approx(_js_by_hand(p, q), abs=1e-12)
    assert 0 <= found <= LN2


def test_kl_div_argument_order_would_make_js_unbounded_where_it_is_at_most_ln_2() -> None:
    sure = torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]])
    assert js_divergence(*sure).value == pytest.approx(LN2)
    # F.kl_div takes logarithms first: fed as KL(m || p), the same predictions have no bound
    p, q = (logits.double().log_softmax(1) for logits in sure)
    m = torch.logaddexp(p, q) - LN2
    swapped = sum(torch.nn.functional.kl_div(side, m, log_target=True, reduction="batchmean") for side in (p, q)) / 2
    assert float(swapped) > 10


def test_js_of_a_model_with_itself_is_zero() -> None:
    logits = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    found = js_divergence(logits, logits + 3.0)
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.split == "forget"


def _pairs(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    base = rng.normal(0, 1.5, (n, 4))
    return torch.from_numpy(base), torch.from_numpy(base + rng.normal(0, 1, (n, 4)))


def test_the_mean_js_is_covered() -> None:
    rng = np.random.default_rng(0)
    truth = float(jensen_shannon(*(side.softmax(1) for side in _pairs(rng, 400_000))).mean())
    intervals = [js_divergence(*_pairs(rng, 200)).ci95 or (1, 0) for _ in range(DRAWS)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


@pytest.mark.parametrize(
    ("logits", "verdict"),
    [(torch.zeros(0, 3), "not_applicable"), (torch.full((4, 3), math.nan), "inconclusive")],
    ids=["empty", "nan"],
)
def test_js_without_samples_or_numbers_is_said(logits: Tensor, verdict: str) -> None:
    found = js_divergence(logits, torch.zeros(len(logits), 3))
    assert (found.value, found.verdict) == (None, verdict)
    json.dumps(found.to_dict(), allow_nan=False)


def _klom_by_hand(retrained: list[float], unlearned: list[float]) -> float:
    low, high = min(retrained + unlearned), max(retrained + unlearned)
    edges = [low + (high - low) * i / 20 for i in range(21)]

    def shares(values: list[float]) -> list[float]:
        counts = [0.0] * 20
        for value in values:
            counts[next(i for i in range(20) if value < edges[i + 1] or i == 19)] += 1 / len(values)
        floored = [max(count, 1e-5) for count in counts]
        return [count / sum(floored) for count in floored]

    p, q = shares(retrained), shares(unlearned)
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_klom_is_its_definition_written_out() -> None:
    rng = np.random.default_rng(0)
    unlearned, retrained = rng.normal(1, 1, (30, 8)), rng.normal(0, 2, (45, 8))
    by_hand = [_klom_by_hand(list(retrained[:, i]), list(unlearned[:, i])) for i in range(8)]
    assert klom_per_sample(unlearned, retrained) == pytest.approx(by_hand, rel=1e-9)


def test_klom_argument_order_is_retrained_first_and_the_reverse_is_named() -> None:
    # retrained runs fill one bin, unlearned ones two: all of p lies where q has a half, so KL = ln 2
    retrained, unlearned = np.zeros((40, 1)), np.repeat([[0.0], [1.0]], 20, axis=0)
    assert klom_per_sample(unlearned, retrained)[0] == pytest.approx(LN2, abs=2e-3)
    # the other way round, half of p falls on the floor of 1e-5
    assert klom_per_sample(retrained, unlearned)[0] == pytest.approx(0.5 * math.log(0.5 / 1e-5) - 0.5 * LN2, abs=2e-3)


def test_both_argument_orders_of_klom_are_in_the_result() -> None:
    rng = np.random.default_rng(8)
    unlearned, retrained = rng.normal(1, 1, (20, 300)), rng.normal(0, 2, (30, 300))
    found = klom(unlearned, retrained, seed=0)
    assert found.extra is not None
    assert found.extra["raw"] == pytest.approx(klom_per_sample(unlearned, retrained).mean())
    assert found.extra["raw_reverse"] == pytest.approx(klom_per_sample(retrained, unlearned).mean())
    assert found.value == pytest.approx(found.extra["raw"] - found.extra["null"])


def test_klom_of_different_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        klom(np.zeros((12, 3)), np.zeros((12, 4)), seed=0)


def test_klom_does_not_drop_the_last_bin() -> None:
    # the one margin that tells the sides apart is the largest of all: without the last bin nothing is left of it
    unlearned, retrained = np.zeros((10, 1)), np.zeros((10, 1))
    retrained[0] = 1.0
    expected = 0.9 * math.log(0.9) + 0.1 * math.log(0.1 / 1e-5)
    assert klom_per_sample(unlearned, retrained)[0] == pytest.approx(expected, abs=2e-3)


def test_klom_of_equal_distributions_reads_a_third_and_less_its_null_nothing() -> None:
    rng = np.random.default_rng(1)
    unlearned, retrained = rng.normal(0, 1, (100, 200)), rng.normal(0, 1, (100, 200))
    assert klom_per_sample(unlearned, retrained).mean() == pytest.approx(0.35, abs=0.03)
    found = klom(unlearned, retrained, seed=0)
    assert found.ci95 is not None
    assert found.ci95[0] <= 0 <= found.ci95[1]
    assert found.value == pytest.approx(0, abs=0.03)


def test_klom_of_one_set_against_itself_is_not_above_its_null() -> None:
    runs = np.random.default_rng(2).normal(0, 1, (50, 30))
    found = klom(runs, runs, seed=0)
    assert found.extra is not None
    assert found.extra["raw"] == pytest.approx(0, abs=1e-12)
    assert found.value is not None
    assert found.value < 0


def _runs(rng: np.random.Generator, count: int) -> Floats:
    """Return margins of runs that lean together: a run good on one sample is good on all."""
    runs: Floats = rng.normal(0, 1, (count, 12)) + rng.normal(0, 1, (count, 1))
    return runs


def test_klom_less_its_null_covers_0_for_equal_runs() -> None:
    rng = np.random.default_rng(3)
    found = [klom(_runs(rng, 25), _runs(rng, 25), seed=i).ci95 or (1, 0) for i in range(DRAWS)]
    assert 0.93 <= np.mean([low <= 0 <= high for low, high in found]) <= 0.97


def test_klom_sees_runs_that_differ_and_keeps_the_callers_arrays() -> None:
    rng = np.random.default_rng(4)
    unlearned, retrained = rng.normal(2, 1, (40, 10)), rng.normal(0, 1, (40, 10))
    before = unlearned.copy(), retrained.copy()
    found = klom(unlearned, retrained, seed=0)
    assert found.ci95 is not None
    assert found.ci95[0] > 1
    assert np.array_equal(before[0], unlearned)
    assert np.array_equal(before[1], retrained)
    assert found == klom(unlearned, retrained, seed=0)


def test_klom_with_too_few_runs_says_how_many_it_needs() -> None:
    rng = np.random.default_rng(5)
    few = klom(rng.normal(0, 1, (4, 5)), rng.normal(0, 1, (4, 5)), seed=0)
    assert few.verdict == "inconclusive"
    assert few.extra is not None
    assert "10 runs" in few.extra["reason"]
    assert klom(np.zeros((1, 5)), np.zeros((4, 5)), seed=0).verdict == "not_applicable"
    assert klom(np.zeros((4, 0)), np.zeros((4, 0)), seed=0).verdict == "not_applicable"


def test_klom_of_margins_that_are_no_numbers_or_infinite_is_never_nan() -> None:
    bad = np.zeros((12, 3))
    bad[0, 0] = math.nan
    assert klom(bad, np.zeros((12, 3)), seed=0).verdict == "inconclusive"
    sure = np.full((12, 3), math.inf)
    found = klom(sure, sure, seed=0)
    assert found.value == pytest.approx(0)
    json.dumps(found.to_dict(), allow_nan=False)


def test_margins_are_log_odds_of_the_label_run_by_run() -> None:
    logits = torch.log(torch.tensor([[[0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.25, 0.75]]]))
    expected = [[math.log(0.2 / 0.8), 0.0], [math.log(9), math.log(3)]]
    assert margins(logits, torch.tensor([0, 1])) == pytest.approx(np.array(expected), abs=1e-6)


def test_rf_jsd_compares_class_means_and_not_samples() -> None:
    # both samples of class 0 are sure, of opposite classes: their mean is even, as is the original's
    sure = torch.tensor([[50.0, 0.0], [0.0, 50.0]])
    even = torch.zeros(2, 2)
    labels = torch.zeros(2, dtype=torch.int64)
    assert rf_jsd(sure, labels, even, labels).value == pytest.approx(0, abs=1e-12)


def test_rf_jsd_by_hand_and_a_class_without_controls_is_named() -> None:
    forget = torch.log(torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]]))
    unseen = torch.log(torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.3, 0.7]]))
    found = rf_jsd(forget, torch.tensor([0, 0, 1, 2]), unseen, torch.tensor([0, 1, 1]))
    by_hand = [_js_by_hand([0.8, 0.2], [0.6, 0.4]), _js_by_hand([0.4, 0.6], [0.2, 0.8])]
    assert found.value == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    assert found.n == 3
    assert found.extra is not None
    assert found.extra["classes_left_out"] == [2]


def _class_sides(rng: np.random.Generator, n: int, shift: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    labels = torch.arange(n) % 2
    ours, theirs = (rng.normal(0, 1, (n, 3)) + np.eye(3)[labels] * gain for gain in (2 - shift, 2.0))
    return torch.from_numpy(ours), labels, torch.from_numpy(theirs), labels


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_rf_jsd_is_covered(shift: float) -> None:
    rng = np.random.default_rng(6)
    truth = rf_jsd(*_class_sides(rng, 400_000, shift)).value
    assert truth is not None
    intervals = [rf_jsd(*_class_sides(rng, 200, shift)).ci95 or (1, 0) for _ in range(DRAWS)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


def test_rf_jsd_of_equal_distributions_covers_0_at_least_as_often() -> None:
    rng = np.random.default_rng(7)
    intervals = [rf_jsd(*_class_sides(rng, 100, 0.0)).ci95 or (1, 0) for _ in range(DRAWS)]
    assert np.mean([low <= 0 for low, _ in intervals]) >= 0.93


def test_rf_jsd_lies_inside_its_interval_however_few_the_samples() -> None:
    rng = np.random.default_rng(9)
    for n in (2, 3, 4, 8, 20):
        found = rf_jsd(*_class_sides(rng, n, 0.0))
        assert found.value is not None
        assert found.ci95 is not None
        assert 0 <= found.ci95[0] <= found.value <= found.ci95[1] <= LN2


def test_rf_jsd_without_a_common_class_or_numbers_is_said() -> None:
    logits, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    assert rf_jsd(logits, labels, logits, labels + 1).verdict == "not_applicable"
    assert rf_jsd(torch.zeros(0, 2), labels[:0], logits, labels).verdict == "not_applicable"
    broken = rf_jsd(torch.full((3, 2), math.inf), labels, logits, labels)
    assert (broken.value, broken.verdict) == (None, "inconclusive")
    json.dumps(rf_jsd(logits[:1], labels[:1], logits[:1], labels[:1]).to_dict(), allow_nan=False)
