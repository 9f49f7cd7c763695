"""Differences: known answers, the law of each rule, and coverage on simulated draws."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.intervals import Floats, auc_delong
from workers.evaluation.paired_intervals import (
    Estimated,
    auc_change,
    rate_difference,
    size_of,
    sum_of,
)

DRAWS = 1000


def _wins(members: Floats, controls: Floats) -> Floats:
    wins: Floats = (members[:, None] > controls) + 0.5 * (members[:, None] == controls)
    return wins


def test_a_change_of_auc_has_the_variance_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    members, controls = rng.normal(1, 1, 30).round(1), rng.normal(0, 1, 40).round(1)
    moved = members + rng.normal(0, 0.5, 30), controls + rng.normal(0, 0.5, 40)
    change = auc_change(before=(members, controls), after=moved)
    gap = _wins(*moved) - _wins(members, controls)
    half = 1.959964 * math.sqrt(gap.mean(1).var(ddof=1) / 30 + gap.mean(0).var(ddof=1) / 40)
    assert change.value == pytest.approx(gap.mean())
    assert change.ci95 == pytest.approx((gap.mean() - half, gap.mean() + half), abs=1e-6)


@pytest.mark.parametrize(("n", "m", "shift"), [(80, 80, 0.0), (120, 200, 0.5), (200, 200, -0.4)])
def test_the_change_of_an_auc_is_covered(n: int, m: int, shift: float) -> None:
    rng, hits = np.random.default_rng(1), 0
    # members at 0.8 and then 0.8 + shift above controls of unit variance, both times
    truth = 0.5 * (math.erf((0.8 + shift) / 2) - math.erf(0.8 / 2))
    for _ in range(DRAWS):
        sides = []
        for size, means in ((n, (0.8, 0.8 + shift)), (m, (0.0, 0.0))):
            shared = rng.normal(0, math.sqrt(0.6), size)
            sides.append([mean + shared + rng.normal(0, math.sqrt(0.4), size) for mean in means])
        low, high = auc_change(before=(sides[0][0], sides[1][0]), after=(sides[0][1], sides[1][1])).ci95
        hits += low <= truth <= high
    assert 0.93 <= hits / DRAWS <= 0.97


def test_a_paired_change_is_narrower_than_two_separate_intervals() -> None:
    rng = np.random.default_rng(2)
    before = rng.normal(1, 1, 100), rng.normal(0, 1, 100)
    after = before[0] + rng.normal(0, 0.1, 100), before[1] + rng.normal(0, 0.1, 100)
    low, high = auc_change(before=before, after=after).ci95
    apart = auc_delong(*before)[1]
    assert high - low < (apart[1] - apart[0]) / 2


def test_equal_models_change_nothing_and_keep_some_width() -> None:
    scores = np.arange(20.0), np.arange(20.0) - 3
    change = auc_change(before=scores, after=scores)
    assert change.value == 0
    assert change.ci95[0] == -change.ci95[1] < 0


@pytest.mark.parametrize("sides", [(0, 3, 0, 3), (3, 0, 3, 0), (3, 3, 2, 3), (3, 3, 3, 2)])
def test_a_change_between_different_samples_is_refused(sides: tuple[int, int, int, int]) -> None:
    a, b, c, d = (np.ones(size) for size in sides)
    with pytest.raises(ValueError, match="same samples"):
        auc_change(before=(a, b), after=(c, d))


def test_a_difference_of_rates_gives_the_textbook_interval() -> None:
    # 56/70 and 48/80: Newcombe 1998, table II, method 10
    found = rate_difference(56, 70, 48, 80)
    assert found.value == pytest.approx(0.2)
    assert found.ci95 == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("p", "q", "n"), [(0.3, 0.2, 100), (0.6, 0.5, 300)])
def test_the_difference_of_two_rates_is_covered(p: float, q: float, n: int) -> None:
    rng = np.random.default_rng(3)
    draws = zip(rng.binomial(n, p, DRAWS), rng.binomial(n, q, DRAWS), strict=True)
    intervals = [rate_difference(int(a), n, int(b), n).ci95 for a, b in draws]
    assert 0.93 <= np.mean([low <= p - q <= high for low, high in intervals]) <= 0.97


@given(value=st.floats(-1, 1), below=st.floats(0, 1), above=st.floats(0, 1))
def test_a_size_is_never_negative_and_holds_every_size_of_its_interval(
    value: float, below: float, above: float
) -> None:
    found = size_of(Estimated(value=value, ci95=(value - below, value + above)))
    low, high = found.ci95
    assert 0 <= low <= found.value <= high
    for inside in np.linspace(value - below, value + above, 7):
        assert low - 1e-12 <= abs(inside) <= high + 1e-12


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_a_sum_lies_inside_its_interval(parts: list[tuple[float, float, float]]) -> None:
    sizes = [Estimated(value=v, ci95=(max(0.0, v - b), v + a)) for v, b, a in parts]
    found = sum_of(sizes)
    assert 0 <= found.ci95[0] <= found.value + 1e-12
    assert found.value - 1e-12 <= found.ci95[1] <= sum(size.ci95[1] for size in sizes) + 1e-12
