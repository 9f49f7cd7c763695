"""Intervals: known answers, coverage on simulated draws, and the cases where a variance vanishes."""

import math

import numpy as np
import pytest

from workers.evaluation.intervals import (
    auc_delong,
    cross_validated,
    mean_interval,
    paired_difference,
    percentile_interval,
    wilson,
)

DRAWS = 1000


def test_wilson_gives_the_textbook_interval() -> None:
    # 81 of 263: Newcombe 1998, table I, method 3
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("n", [1, 3, 90, 10_000])
def test_wilson_reaches_the_ends_exactly_and_keeps_width(n: int) -> None:
    assert wilson(0, n)[0] == 0.0
    assert wilson(0, n)[1] > 0.0
    assert wilson(n, n)[1] == 1.0
    assert wilson(n, n)[0] < 1.0


def test_wilson_of_no_trial_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("n", "rate"), [(100, 0.3), (200, 0.5)])
def test_wilson_covers_the_rate(n: int, rate: float) -> None:
    rng = np.random.default_rng(1)
    intervals = [wilson(int(hits), n) for hits in rng.binomial(n, rate, DRAWS)]
    assert 0.93 <= np.mean([low <= rate <= high for low, high in intervals]) <= 0.97


@pytest.mark.parametrize(("shift", "n", "m"), [(0.0, 80, 80), (1.0, 80, 120), (2.0, 150, 150)])
def test_delong_covers_the_auc(shift: float, n: int, m: int) -> None:
    rng = np.random.default_rng(2)
    truth = 0.5 * (1 + math.erf(shift / 2))  # two unit normals: Phi(shift / sqrt 2)
    hits = 0
    for _ in range(DRAWS):
        low, high = auc_delong(rng.normal(shift, 1, n), rng.normal(0, 1, m))[1]
        hits += low <= truth <= high
    assert 0.93 <= hits / DRAWS <= 0.97


def test_delong_gives_the_variance_by_its_definition() -> None:
    rng = np.random.default_rng(3)
    pos, neg = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 40).round(1)
    wins = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    auc, (low, high) = auc_delong(pos, neg)
    variance = wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 40
    half = 1.959964 * np.sqrt(variance) / (auc * (1 - auc))
    logit = np.log(auc / (1 - auc))
    assert auc == pytest.approx(wins.mean())
    assert (low, high) == pytest.approx((1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))), abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_delong_keeps_width_where_the_variance_vanishes(n: int) -> None:
    ones, zeros = np.ones(n), np.zeros(n)
    auc, (low, high) = auc_delong(ones, zeros)
    assert (auc, high) == (1.0, 1.0)
    assert 0 < low < 1
    auc, (low, high) = auc_delong(zeros, ones)
    assert (auc, low) == (0.0, 0.0)
    assert 0 < high < 1
    auc, (low, high) = auc_delong(ones, ones)
    assert auc == 0.5
    assert low < 0.5 < high


def test_delong_refuses_an_empty_side() -> None:
    with pytest.raises(ValueError, match="both sides"):
        auc_delong(np.ones(3), np.ones(0))


def test_paired_difference_covers_the_drop() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(DRAWS):
        before = rng.random(400) < 0.9
        after = np.where(rng.random(400) < 0.1, rng.random(400) < 0.5, before)
        low, high = paired_difference(before.astype(float), after.astype(float))
        hits += low <= 0.04 <= high  # a tenth is redrawn at 0.5 instead of 0.9
    assert 0.93 <= hits / DRAWS <= 0.97


def test_paired_difference_of_equal_models_is_centred_and_not_a_point() -> None:
    low, high = paired_difference(np.ones(100), np.ones(100))
    assert low == -high
    assert 0 < high < 0.03


def test_mean_interval_needs_two_values() -> None:
    assert mean_interval(np.ones(1)) is None
    assert mean_interval(np.array([0.0, 2.0])) == pytest.approx((1 - 1.959964, 1 + 1.959964))


def test_percentile_interval_cuts_both_tails_alike() -> None:
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))


def test_cross_validated_is_nearly_the_t_interval_far_from_chance_and_wider_at_it() -> None:
    rates = np.array([58.0, 62.0, 60.0, 59.0, 61.0])  # deviation sqrt(2.5) points; t(0.975, 4) = 2.776
    far = 2.776445 * math.sqrt(0.00025 * 0.24)  # 1/5 of a fold, and 0.04 that folds share
    assert cross_validated(rates + 30, np.full(5, 100.0)) == pytest.approx((0.9 - far, 0.9 + far), abs=2e-4)
    near = 2.776445 * math.sqrt(0.00025 * 0.35)
    low, high = cross_validated(rates - 10, np.full(5, 100.0))
    assert 0.5 - near <= low < 0.5 - far
    assert high == pytest.approx(1 - low)


def test_cross_validated_stays_within_the_unit_and_holds_the_rate() -> None:
    for hits in ([0.0, 1.0, 0.0, 0.0, 0.0], [9.0, 10.0, 10.0, 10.0, 10.0], [0.0, 10.0, 0.0, 10.0, 5.0]):
        low, high = cross_validated(np.array(hits), np.full(5, 10.0))
        assert 0 <= low <= sum(hits) / 50 <= high <= 1


def test_cross_validated_folds_that_agree_keep_width() -> None:
    assert cross_validated(np.full(5, 20.0), np.full(5, 20.0)) == wilson(100, 100)


@pytest.mark.parametrize("trials", [[5.0], [5.0, 0.0]])
def test_cross_validated_refuses_one_fold_or_an_empty_one(trials: list[float]) -> None:
    with pytest.raises(ValueError, match="folds"):
        cross_validated(np.zeros(len(trials)), np.array(trials))
