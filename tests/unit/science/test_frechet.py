"""The Fréchet distance is that of the two Gaussians: by hand, by scipy's square root of a matrix, and at the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from workers.evaluation.generation.frechet import (
    Moments,
    class_weights,
    frechet_distance,
    jackknife_interval,
    moments,
)
from workers.evaluation.intervals import Floats


def _gaussian(mean: list[float], covariance: list[list[float]]) -> Moments:
    return Moments(mean=np.array(mean), covariance=np.array(covariance))


def _features(seed: int, n: int = 60, d: int = 5) -> Floats:
    rng = np.random.default_rng(seed)
    made: Floats = rng.normal(rng.normal(size=d), 1 + rng.random(d), (n, d)) @ rng.normal(size=(d, d))
    return made


def test_on_a_line_it_is_the_difference_of_means_and_of_deviations_squared() -> None:
    # (3 - 1)^2 + (2 - 5)^2
    assert frechet_distance(_gaussian([3.0], [[4.0]]), _gaussian([1.0], [[25.0]])) == pytest.approx(13.0)


def test_of_commuting_covariances_the_deviations_along_each_axis_are_compared() -> None:
    ours = _gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 9.0]])
    theirs = _gaussian([1.0, 2.0], [[4.0, 0.0], [0.0, 1.0]])
    assert frechet_distance(ours, theirs) == pytest.approx(1 + 4 + (1 - 2) ** 2 + (3 - 1) ** 2)


def test_of_covariances_that_do_not_commute_it_is_the_trace_worked_out_by_hand() -> None:
    # C1 = diag(4, 1), C2 = ((2, 1), (1, 2)): C1 C2 = ((8, 4), (1, 2)), eigenvalues 5 +- sqrt(13), so that the trace of
    # its root is sqrt(5 + sqrt(13)) + sqrt(5 - sqrt(13)) = sqrt(10 + 2 sqrt(12)); the traces are 5 and 4
    found = frechet_distance(
        _gaussian([0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]]), _gaussian([0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    )
    assert found == pytest.approx(9 - 2 * np.sqrt(10 + 2 * np.sqrt(12)))


@settings(max_examples=25, deadline=None)
@given(first=st.integers(0, 10_000), second=st.integers(0, 10_000))
def test_it_is_what_the_square_root_of_the_product_gives_and_the_same_both_ways(first: int, second: int) -> None:
    ours, theirs = moments(_features(first)), moments(_features(second))
    root = np.trace(sqrtm(ours.covariance @ theirs.covariance)).real
    apart = np.square(ours.mean - theirs.mean).sum()
    expected = apart + np.trace(ours.covariance) + np.trace(theirs.covariance) - 2 * root
    scale = np.trace(ours.covariance) + np.trace(theirs.covariance)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, abs=1e-6 * scale)
    assert frechet_distance(theirs, ours) == pytest.approx(frechet_distance(ours, theirs), abs=1e-6 * scale)


def test_equal_sets_are_at_distance_zero_also_without_full_rank() -> None:
    few = _features(1, n=4, d=12)
    assert frechet_distance(moments(few), moments(few)) == pytest.approx(0.0, abs=1e-6 * float(np.trace(np.cov(few.T))))


def test_moments_by_class_weights_are_those_of_a_balanced_set() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (40, 3)), rng.normal(4, 1, (10, 3))
    labels = np.repeat([0, 1], [40, 10])
    weights = class_weights(labels)
    assert weights.sum() == pytest.approx(1.0)
    balanced = moments(np.concatenate([first, *[second] * 4]))
    found = moments(np.concatenate([first, second]), weights)
    np.testing.assert_allclose(found.mean, balanced.mean)
    np.testing.assert_allclose(found.covariance, balanced.covariance, rtol=0.05)


def test_the_jackknife_interval_holds_the_value_and_narrows_with_more_samples() -> None:
    reference = moments(_features(3, n=4000))
    widths = []
    for n in (100, 1600):
        ours = _features(4, n=n)
        low, high = jackknife_interval(ours, reference) or (np.nan, np.nan)
        assert low <= frechet_distance(moments(ours), reference) <= high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("classes", [9, 10])
def test_each_group_left_out_has_as_many_of_every_class_where_they_come_in_turn(classes: int) -> None:
    centres = np.random.default_rng(classes).normal(0, 5, (classes, 3))
    reference = moments(_features(3, d=3))
    low, high = jackknife_interval(np.tile(centres, (40, 1)), reference) or (np.nan, np.nan)
    assert high - low < 1e-6, "images that never differ within a class leave nothing uncertain"


def test_few_samples_have_no_interval_and_one_has_no_moments() -> None:
    assert jackknife_interval(_features(0, n=30), moments(_features(1))) is None
    with pytest.raises(ValueError, match="2 samples"):
        moments(_features(0, n=1))
