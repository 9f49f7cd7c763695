"""RMIA against its N×Z definition in loops, to the bit, and its limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.evaluation.rmia import (
    Population,
    offline_prior,
    online_prior,
    population_ratios,
    relative_scores,
    rmia,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def _by_definition(
    target: Floats, reference: Floats, seen: Bools, population: Population, *, gamma: float, a: float, online: bool
) -> list[float]:
    """Return Pr_z[(p(x|θ)/p(x)) / (p(z|θ)/p(z)) >= γ] for each x, z by z; NaN where p(x) has no model."""
    k = len(reference)
    ratios_z = []
    for z, p in enumerate(population.target.tolist()):
        out = sum(population.reference[j, z].item() for j in range(k)) / k
        ratios_z.append(p / (((1 + a) * out + (1 - a)) / 2))
    scores = []
    for x, p in enumerate(target.tolist()):
        out_values = [reference[j, x].item() for j in range(k) if not seen[j, x]]
        in_values = [reference[j, x].item() for j in range(k) if seen[j, x]]
        if not out_values or (online and not in_values):
            scores.append(math.nan)
            continue
        out = sum(out_values) / len(out_values)
        prior = (sum(in_values) / len(in_values) + out) / 2 if online else ((1 + a) * out + (1 - a)) / 2
        scores.append(sum((p / prior) / ratio >= gamma for ratio in ratios_z) / len(ratios_z))
    return scores


def _case(seed: int, *, k: int, n: int, z: int, grid: int = 0) -> tuple[Floats, Floats, Bools, Population]:
    """Draw probabilities above 0; on a grid of few values there are many exact ties."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return rng.integers(1, grid + 1, shape) / grid if grid else 1 - rng.random(shape)

    population = Population(target=draw(z), reference=draw(k, z))
    return draw(n), draw(k, n), rng.random((k, n)) < 0.5, population


@pytest.mark.parametrize("grid", [0, 4, 10])
@pytest.mark.parametrize("gamma", [0.25, 0.5, 1.0, 2.0, 4.0])
@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_scores_equal_the_definition_to_the_bit_at_powers_of_two(grid: int, gamma: float, seed: int, k: int) -> None:
    target, reference, seen, population = _case(seed, k=k, n=15, z=20, grid=grid)
    for online in (False, True):
        prior = online_prior(reference, seen) if online else offline_prior(reference, seen)
        found = relative_scores(target, prior, population_ratios(population), gamma=gamma)
        expected = _by_definition(target, reference, seen, population, gamma=gamma, a=0.3, online=online)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_every_a_follows_the_definition(a: float) -> None:
    target, reference, seen, population = _case(1, k=5, n=200, z=300)
    found = relative_scores(target, offline_prior(reference, seen, a=a), population_ratios(population, a=a), gamma=1.0)
    expected = _by_definition(target, reference, seen, population, gamma=1.0, a=a, online=False)
    np.testing.assert_array_equal(found, expected)


def test_other_gammas_differ_from_the_definition_by_ties_alone() -> None:
    target, reference, seen, population = _case(2, k=4, n=300, z=500)
    found = relative_scores(target, offline_prior(reference, seen), population_ratios(population), gamma=1.7)
    expected = np.array(_by_definition(target, reference, seen, population, gamma=1.7, a=0.3, online=False))
    known = ~np.isnan(expected)
    assert np.abs(found - expected)[known].max() <= 1 / 500 + 1e-12


def _audit(boost: float, *, n: int = 400, z: int = 300, k: int = 8) -> tuple[Floats, Bools, Floats, Bools, Population]:
    rng = np.random.default_rng(3)
    is_member = np.arange(n) < n // 2
    seen = rng.permuted(np.arange(k)[:, None] + np.zeros((1, n)), axis=0) < k // 2

    def probability(phi: Floats) -> Floats:
        return 1 / (1 + np.exp(-phi))

    hard, hard_z = 2 * rng.normal(size=n), 2 * rng.normal(size=z)
    target = probability(hard + boost * is_member + rng.normal(size=n) / 3)
    reference = probability(hard + 2 * seen + rng.normal(size=(k, n)) / 3)
    population = Population(
        target=probability(hard_z + rng.normal(size=z) / 3),
        reference=probability(hard_z + rng.normal(size=(k, z)) / 3),
    )
    return target, is_member, reference, seen, population


def test_forgotten_as_unseen_reads_half_and_remembered_reads_more() -> None:
    target, is_member, reference, seen, population = _audit(0.0)
    for row in rmia(target, is_member, reference=reference, seen=seen, population=population):
        if row.name.endswith("auc"):
            assert row.ci95 is not None
            assert row.ci95[0] <= 0.5 <= row.ci95[1]
    target, is_member, reference, seen, population = _audit(2.0)
    rows = {row.name: row for row in rmia(target, is_member, reference=reference, seen=seen, population=population)}
    assert (rows["rmia.offline.auc"].value or 0) > 0.8
    assert (rows["rmia.online.auc"].value or 0) > 0.8
    assert len(rows) == 6
    assert rows["rmia.offline.tpr_at_fpr_1pct"].verdict == "inconclusive"


def test_separated_likelihoods_read_one() -> None:
    n = 40
    is_member = np.arange(n) < 20
    reference = np.full((4, n), 0.5)
    seen = np.arange(4)[:, None] % 2 == np.zeros((1, n))
    population = Population(target=np.linspace(0.1, 0.4, 50), reference=np.full((4, 50), 0.5))
    target = np.where(is_member, 0.9, 0.05)
    rows = rmia(target, is_member, reference=reference, seen=seen, population=population)
    assert [row.value for row in rows if row.name.endswith("auc")] == [1.0, 1.0]


def test_samples_without_the_models_needed_are_left_out_and_counted() -> None:
    target, is_member, reference, seen, population = _audit(0.0, n=40)
    seen[:, 0], seen[:, 39] = True, False
    rows = {row.name: row for row in rmia(target, is_member, reference=reference, seen=seen, population=population)}
    assert rows["rmia.offline.auc"].extra == {"reference_models": 8, "members_left_out": 1, "controls_left_out": 0}
    assert rows["rmia.online.auc"].extra == {"reference_models": 8, "members_left_out": 1, "controls_left_out": 1}
    assert rows["rmia.online.auc"].n == 19


def test_probabilities_that_underflowed_give_no_nan() -> None:
    target, is_member, reference, seen, population = _audit(0.0, n=40)
    target[::3], reference[:, ::2] = 0.0, 0.0
    population.target[::2] = 0.0
    for a in (0.0, 0.3, 1.0):
        for row in rmia(target, is_member, reference=reference, seen=seen, population=population, a=a):
            assert row.value is not None
            assert math.isfinite(row.value)


def test_nothing_to_compare_with_is_not_applicable_and_broken_probabilities_are_inconclusive() -> None:
    target, is_member, reference, seen, population = _audit(0.0, n=40)
    nobody = Population(target=np.zeros(0), reference=np.zeros((8, 0)))
    rows = rmia(target, is_member, reference=reference, seen=seen, population=nobody)
    assert {(row.value, row.verdict) for row in rows} == {(None, "not_applicable")}
    target[0] = np.nan
    rows = rmia(target, is_member, reference=reference, seen=seen, population=population)
    assert {(row.value, row.verdict) for row in rows} == {(None, "inconclusive")}
    assert len(rows) == 6


def test_settings_outside_the_definition_are_refused() -> None:
    target, is_member, reference, seen, population = _audit(0.0, n=40)
    with pytest.raises(ValueError, match="gamma"):
        rmia(target, is_member, reference=reference, seen=seen, population=population, gamma=0.0)
    with pytest.raises(ValueError, match="a must lie"):
        rmia(target, is_member, reference=reference, seen=seen, population=population, a=1.5)
    with pytest.raises(ValueError, match="same reference models"):
        rmia(target, is_member, reference=reference[:2], seen=seen[:2], population=population)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 30), st.integers(1, 30))
def test_every_figure_is_a_share_inside_its_interval(seed: int, k: int, n: int, z: int) -> None:
    target, reference, seen, population = _case(seed, k=k, n=n, z=z, grid=3)
    for row in rmia(target, np.arange(n) % 2 == 0, reference=reference, seen=seen, population=population):
        if row.value is not None:
            assert row.ci95 is not None
            assert 0 <= row.ci95[0] <= row.value <= row.ci95[1] <= 1
        else:
            assert (row.extra or {})["reason"]
