"""The threshold attack against brute force, planted answers, its limits and its speed."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.metrics import METRICS
from workers.evaluation.intervals import auc_delong
from workers.evaluation.mia_threshold import (
    auc_result,
    balanced_accuracy,
    best_threshold,
    mia_threshold,
    tpr_at_fpr,
)

few_distinct = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=25).map(np.array)


@given(few_distinct, few_distinct)
def test_auc_is_the_share_of_won_pairs_with_ties_half(
    members: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    controls: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> None:
    wins = (members[:, None] > controls) + 0.5 * (members[:, None] == controls)
    auc, (low, high) = auc_delong(members, controls)
    assert auc == pytest.approx(wins.mean(), abs=1e-12)
    assert 0 <= low <= auc <= high <= 1
    assert auc_delong(controls, members)[0] == pytest.approx(1 - auc, abs=1e-12)


@given(few_distinct, few_distinct)
def test_best_threshold_is_no_worse_than_any_other(
    members: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    controls: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
) -> None:
    def accuracy(threshold: float) -> float:
        return float(np.mean(members >= threshold) + np.mean(controls < threshold)) / 2

    best = accuracy(best_threshold(members, controls))
    assert best == pytest.approx(max(accuracy(t) for t in [*members, *controls, np.inf]))


def test_equal_distributions_read_chance_within_the_interval() -> None:
    rng = np.random.default_rng(0)
    members, controls = rng.normal(size=2000), rng.normal(size=2000)
    for result in (auc_result("mia_threshold.phi.auc", members, controls), balanced_accuracy(members, controls)):
        assert result.ci95 is not None
        assert result.ci95[0] <= 0.5 <= result.ci95[1]


def test_balanced_accuracy_of_noise_is_not_biased_upwards() -> None:
    rng = np.random.default_rng(1)
    values = [balanced_accuracy(rng.normal(size=20), rng.normal(size=20)).value for _ in range(500)]
    assert np.mean([value for value in values if value is not None]) == pytest.approx(0.5, abs=0.02)


def test_separated_scores_read_one_and_reversed_ones_zero() -> None:
    high, low = np.arange(10.0) + 100, np.arange(10.0)
    assert auc_result("mia_threshold.phi.auc", high, low).value == 1.0
    assert auc_result("mia_threshold.phi.auc", low, high).value == 0.0
    assert balanced_accuracy(high, low).value == 1.0


def test_an_auc_far_below_half_is_told_by_its_interval() -> None:
    result = auc_result("mia_threshold.phi.auc", np.random.default_rng(2).normal(-2, 1, 100), np.zeros(100))
    assert result.ci95 is not None
    assert result.ci95[1] < 0.5


@pytest.mark.parametrize(
    ("label", "controls", "verdict"),
    [
        ("1pct", 999, "inconclusive"),
        ("1pct", 1_000, "measured"),
        ("0_1pct", 9_999, "inconclusive"),
        ("0_1pct", 10_000, "measured"),
    ],
)
def test_tpr_needs_enough_controls(label: str, controls: int, verdict: str) -> None:
    assert tpr_at_fpr(np.arange(50.0), np.arange(float(controls)), label).verdict == verdict


def test_tpr_lets_no_more_than_the_rate_of_controls_pass() -> None:
    controls = np.arange(1000.0)
    assert tpr_at_fpr(np.array([989.0, 989.5, 990.0, 5000.0]), controls, "1pct").value == 0.75
    # with ties at the threshold none of them may pass
    assert tpr_at_fpr(np.zeros(10), np.zeros(1000), "1pct").value == 0.0


def test_empty_sides_are_not_applicable_and_bad_scores_inconclusive() -> None:
    assert auc_result("mia_threshold.phi.auc", np.ones(0), np.ones(3)).verdict == "not_applicable"
    assert auc_result("mia_threshold.phi.auc", np.array([np.nan]), np.ones(3)).verdict == "inconclusive"
    assert balanced_accuracy(np.ones(1), np.ones(1)).verdict == "inconclusive"


def test_the_family_is_complete_and_leaves_its_inputs_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator)
    labels = torch.randint(5, (40,), generator=generator)
    copies = logits.clone(), labels.clone()
    results = mia_threshold(logits[:20], labels[:20], logits[20:], labels[20:])
    assert torch.equal(logits, copies[0])
    assert torch.equal(labels, copies[1])
    family = {name for name in METRICS if name.startswith("mia_threshold.")}
    assert {result.name for result in results} == family - {"mia_threshold.phi.retain_auc"}


def test_arrays_are_not_reordered() -> None:
    members, controls = np.array([3.0, 1.0, 2.0, 5.0]), np.array([9.0, 0.0, 4.0, 4.0])
    for array in (members, controls):
        array.flags.writeable = False
    auc_delong(members, controls)
    balanced_accuracy(members, controls)
    tpr_at_fpr(members, controls, "1pct")
    assert members.tolist() == [3.0, 1.0, 2.0, 5.0]


def test_a_million_scores_take_less_than_a_second() -> None:
    rng = np.random.default_rng(3)
    members, controls = rng.normal(size=500_000), rng.normal(size=500_000)
    start = time.process_time()
    auc_delong(members, controls)
    assert time.process_time() - start < 1.0
