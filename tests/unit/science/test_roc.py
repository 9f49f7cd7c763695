"""True positives at few false positives: their interval covers, and what cannot be measured says why."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from workers.evaluation.mia_threshold import balanced_accuracy, best_threshold
from workers.evaluation.roc import auc_result, tell_apart, tpr_at_fpr, tpr_interval

DRAWS = 2000


@pytest.mark.parametrize(
    ("rate", "n", "m", "shift"), [(0.01, 1000, 1000, 2.0), (0.01, 500, 3000, 2.0), (0.01, 1500, 1500, 3.0)]
)
def test_the_interval_covers_the_true_rate_at_the_true_quantile(rate: float, n: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(5)
    truth = norm.sf(norm.isf(rate) - shift)
    hits = 0
    for _ in range(DRAWS):
        low, high = tpr_interval(rng.normal(shift, 1, n), rng.normal(0, 1, m), rate)
        hits += low <= truth <= high
    assert 0.93 <= hits / DRAWS <= 0.97


def test_the_interval_is_never_narrower_than_that_of_a_given_threshold() -> None:
    rng = np.random.default_rng(6)
    result = tpr_at_fpr(rng.normal(1, 1, 300), rng.normal(0, 1, 1000), "1pct")
    assert result.value is not None
    assert result.ci95 is not None
    assert result.ci95[1] - result.ci95[0] > 2 * 1.96 * math.sqrt(result.value * (1 - result.value) / 300)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 50), (50, 3), (1000, 1000)])
def test_the_interval_holds_the_rate_at_any_size_and_with_ties(n: int, m: int) -> None:
    for members, controls in ((np.zeros(n), np.zeros(m)), (np.ones(n), np.zeros(m)), (np.zeros(n), np.ones(m))):
        result = tpr_at_fpr(members, controls, "1pct")
        assert result.value is not None
        assert result.ci95 is not None
        assert 0 <= result.ci95[0] <= result.value <= result.ci95[1] <= 1


@pytest.mark.parametrize(("shift", "n"), [(0.0, 100), (1.0, 100)])
def test_the_interval_of_the_balanced_accuracy_covers_that_of_its_thresholds(shift: float, n: int) -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(DRAWS):
        members, controls = rng.normal(shift, 1, n), rng.normal(0, 1, n)
        cuts = np.array([best_threshold(members[half::2], controls[half::2]) for half in (0, 1)])
        truth = float(np.mean(norm.sf(cuts - shift) + norm.cdf(cuts)) / 2)
        low, high = balanced_accuracy(members, controls).ci95 or (1.0, 0.0)
        hits += low <= truth <= high
    assert 0.93 <= hits / DRAWS <= 0.97


def test_too_few_controls_say_how_many_are_needed() -> None:
    auc, one, tenth = tell_apart("lira_offline", np.arange(5.0), np.arange(5.0))
    assert (auc.verdict, one.verdict, tenth.verdict) == ("measured", "inconclusive", "inconclusive")
    assert one.extra == {"reason": "needs at least 1,000 controls; there are 5"}
    assert tenth.extra == {"reason": "needs at least 10,000 controls; there are 5"}
    assert balanced_accuracy(np.ones(1), np.ones(3)).extra == {
        "reason": "needs at least 2 samples on each side; there are 1 and 3"
    }


def test_empty_sides_and_broken_scores_give_a_reason_and_no_figure() -> None:
    for result in tell_apart("lira_offline", np.ones(0), np.ones(3)):
        assert (result.value, result.verdict) == (None, "not_applicable")
        assert result.extra == {"reason": "needs at least 1 sample on each side; there are 0 and 3"}
    broken = np.array([np.nan, 1.0])
    for result in [*tell_apart("lira_offline", broken, np.ones(3)), balanced_accuracy(np.ones(3), broken)]:
        assert (result.value, result.verdict) == (None, "inconclusive")


def test_infinite_scores_are_ranked_and_never_yield_nan() -> None:
    members, controls = np.array([np.inf, np.inf, 1.0, -np.inf]), np.array([-np.inf, 0.0, np.inf, -np.inf])
    results = [*tell_apart("lira_offline", members, controls), balanced_accuracy(members, controls)]
    assert all(result.value is not None and math.isfinite(result.value) for result in results)
    wins = (members[:, None] > controls) + 0.5 * (members[:, None] == controls)
    assert auc_result("lira_offline.auc", members, controls).value == pytest.approx(wins.mean())
