"""The attacks that learn a rule: planted answers, the coverage of the cross-validated interval, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.catalogue.metrics import METRICS
from workers.evaluation.intervals import cross_validated
from workers.evaluation.mia_entropy_lr import mia_entropy_lr
from workers.evaluation.mia_loss_lr import FOLDS, fold_hits, mia_loss_lr
from workers.evaluation.mia_svc import mia_svc
from workers.evaluation.scores import Outputs
from workers.reproducibility import generator_for

Floats = NDArray[np.float64]
DRAWS = 1000


def _outputs(n: int, *, sure: float, seed: int, classes: int = 4) -> Outputs:
    """Return outputs whose own logit is higher by `sure` on average; one is surely known at 20."""
    generator = generator_for(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator)
    return logits + sure * torch.nn.functional.one_hot(labels, classes), labels


# -- logistic regression on the loss


def test_loss_of_equal_distributions_reads_half_within_the_interval() -> None:
    (result,) = mia_loss_lr(_outputs(500, sure=2, seed=2), _outputs(500, sure=2, seed=3), seed=0)
    assert result.ci95 is not None
    assert result.ci95[0] <= 0.5 <= result.ci95[1]
    assert result.n == 500


def test_separated_losses_read_one() -> None:
    (result,) = mia_loss_lr(_outputs(200, sure=30, seed=0), _outputs(200, sure=-30, seed=1), seed=0)
    assert result.value == 1.0
    assert result.ci95 is not None
    assert 0.95 < result.ci95[0] < result.ci95[1] == 1.0


def test_the_larger_side_is_cut_so_that_guessing_reads_half() -> None:
    (result,) = mia_loss_lr(_outputs(100, sure=2, seed=0), _outputs(900, sure=2, seed=1), seed=0)
    assert result.n == 100
    assert result.value == pytest.approx(0.5, abs=0.15)


def test_losses_are_clipped_so_that_infinite_ones_do_no_harm() -> None:
    logits, labels = _outputs(50, sure=2, seed=0)
    logits[0] = torch.tensor([-math.inf, 0.0, 0.0, 0.0])
    labels[0] = 0
    capped = logits.clone()
    capped[0] = torch.tensor([-200.0, 0.0, 0.0, 0.0])
    controls = _outputs(50, sure=2, seed=1)
    assert mia_loss_lr((logits, labels), controls, seed=0) == mia_loss_lr((capped, labels), controls, seed=0)


def test_too_few_losses_say_how_many_are_needed() -> None:
    (few,) = mia_loss_lr(_outputs(4, sure=2, seed=0), _outputs(9, sure=2, seed=1), seed=0)
    assert (few.value, few.verdict) == (None, "inconclusive")
    assert few.extra == {"reason": "needs at least 5 samples on each side; there are 4 and 9"}
    (none,) = mia_loss_lr(_outputs(0, sure=2, seed=0), _outputs(9, sure=2, seed=1), seed=0)
    assert (none.value, none.verdict) == (None, "not_applicable")


def test_equal_losses_and_one_class_read_chance() -> None:
    same = torch.zeros(20, 3), torch.zeros(20, dtype=torch.int64)
    (result,) = mia_loss_lr(same, same, seed=0)
    assert result.value == 0.5
    assert result.ci95 is not None


def _boundaries(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return slope and intercept of each row's logistic regression, ridge 1 on the slope, by Newton's method."""
    slope, intercept = np.zeros(len(x)), np.zeros(len(x))
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(slope[:, None] * x + intercept[:, None], -30, 30)))
        weight = p * (1 - p)
        g0, g1 = (p - y).sum(1), ((p - y) * x).sum(1) + slope
        h00, h01, h11 = weight.sum(1), (weight * x).sum(1), (weight * x * x).sum(1) + 1
        determinant = h00 * h11 - h01**2
        intercept -= (h11 * g0 - h01 * g1) / determinant
        slope -= (h00 * g1 - h01 * g0) / determinant
    return slope, intercept


def _simulated_folds(members: Floats, controls: Floats) -> tuple[Floats, Floats]:
    """Return hits and trials per draw and fold, (draws, 5) each, of losses (draws, n); folds by position."""
    n = members.shape[1]
    fold_of = np.arange(n) % FOLDS
    hits, trials = np.zeros((2, len(members), FOLDS))
    for fold in range(FOLDS):
        fit, judge = fold_of != fold, fold_of == fold
        y = np.repeat([1.0, 0.0], fit.sum())[None, :]
        slope, intercept = _boundaries(np.concatenate([members[:, fit], controls[:, fit]], 1), y)

        def called(x: Floats, w: Floats = slope, b: Floats = intercept) -> NDArray[np.bool_]:
            return w[:, None] * x + b[:, None] > 0

        hits[:, fold] = called(members[:, judge]).sum(1) + (~called(controls[:, judge])).sum(1)
        trials[:, fold] = 2 * judge.sum()
    return hits, trials


@pytest.mark.parametrize("seed", range(3))
def test_the_regression_is_the_one_the_simulation_fits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    members, controls = rng.exponential(0.4, 100), rng.exponential(0.9, 100)
    hits, trials = fold_hits(members, controls, seed=seed)
    simulated, _ = _simulated_folds(members[None], controls[None])
    assert trials.tolist() == [40.0] * 5
    # other folds, the same attack
    assert hits.sum() == pytest.approx(simulated.sum(), abs=6)


@pytest.mark.parametrize(("shift", "n"), [(0.0, 100), (0.0, 200), (0.5, 150), (1.5, 150)])
def test_the_cross_validated_interval_covers_the_expected_accuracy(shift: float, n: int) -> None:
    rng = np.random.default_rng(8)
    hits, trials = _simulated_folds(rng.normal(0, 1, (DRAWS, n)), rng.normal(shift, 1, (DRAWS, n)))
    truth = hits.sum() / trials.sum() if shift else 0.5
    intervals = [cross_validated(h, t) for h, t in zip(hits, trials, strict=True)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in intervals]) <= 0.97


# -- logistic regression on the entropy


def test_entropy_calls_what_looks_retained_a_member() -> None:
    retain, test = _outputs(600, sure=8, seed=0), _outputs(300, sure=0, seed=1)
    (remembered,) = mia_entropy_lr(_outputs(100, sure=8, seed=2), retain=retain, test=test)
    (forgotten,) = mia_entropy_lr(_outputs(100, sure=0, seed=3), retain=retain, test=test)
    assert remembered.value is not None
    assert forgotten.value is not None
    assert remembered.value > 0.95
    assert forgotten.value < 0.05


def test_entropy_weighs_both_classes_the_same_whatever_their_sizes() -> None:
    forget = _outputs(400, sure=2, seed=2)
    (result,) = mia_entropy_lr(forget, retain=_outputs(4000, sure=2, seed=0), test=_outputs(100, sure=1, seed=1))
    assert result.value is not None
    assert result.value < 0.9  # unweighted, 40 to 1, everything would be a member


def test_entropy_without_samples_or_without_spread_has_no_figure() -> None:
    some, none = _outputs(9, sure=2, seed=0), _outputs(0, sure=2, seed=0)
    for forget, retain, test in ((none, some, some), (some, none, some), (some, some, none)):
        (result,) = mia_entropy_lr(forget, retain=retain, test=test)
        assert (result.value, result.verdict) == (None, "not_applicable")
    flat = torch.zeros(9, 3), torch.zeros(9, dtype=torch.int64)
    (result,) = mia_entropy_lr(flat, retain=flat, test=flat)
    assert (result.value, result.verdict) == (None, "inconclusive")


# -- support vector machine


def test_svc_calls_what_looks_unseen_a_non_member_by_every_feature() -> None:
    retain, test = _outputs(300, sure=8, seed=0), _outputs(300, sure=0, seed=1)
    results = mia_svc(_outputs(100, sure=0, seed=2), retain=retain, test=test, seed=0)
    assert {row.name for row in results} == {name for name in METRICS if name.startswith("mia_svc.")}
    for row in results:
        assert row.value is not None
        assert row.value > (0.6 if row.name == "mia_svc.correctness" else 0.9)
    known = mia_svc(_outputs(100, sure=8, seed=3), retain=retain, test=test, seed=0)
    assert all(row.value is not None and row.value < 0.1 for row in known)


def test_svc_learns_from_as_many_of_both_up_to_the_cap_and_by_its_seed() -> None:
    forget, retain, test = (_outputs(n, sure=2, seed=n) for n in (60, 500, 300))
    first = mia_svc(forget, retain=retain, test=test, seed=0, max_training=50)
    assert {(row.extra or {})["training"] for row in first} == {100}
    assert mia_svc(forget, retain=retain, test=test, seed=0, max_training=50) == first
    assert mia_svc(forget, retain=retain, test=test, seed=1, max_training=50) != first
    assert {(row.extra or {})["training"] for row in mia_svc(forget, retain=retain, test=test, seed=0)} == {600}


def test_svc_without_samples_or_without_spread_has_no_figure() -> None:
    some, none = _outputs(9, sure=2, seed=0), _outputs(0, sure=2, seed=0)
    for forget, retain, test in ((none, some, some), (some, none, some), (some, some, none)):
        results = mia_svc(forget, retain=retain, test=test, seed=0)
        assert {(row.value, row.verdict) for row in results} == {(None, "not_applicable")}
    right = _outputs(9, sure=30, seed=1)
    correctness = mia_svc(some, retain=right, test=right, seed=0)[-1]
    assert (correctness.name, correctness.value, correctness.verdict) == ("mia_svc.correctness", None, "inconclusive")


# -- all three


def _all(forget: Outputs, retain: Outputs, test: Outputs) -> list[tuple[float | None, str]]:
    rows = [
        *mia_loss_lr(forget, test, seed=0),
        *mia_entropy_lr(forget, retain=retain, test=test),
        *mia_svc(forget, retain=retain, test=test, seed=0),
    ]
    return [(row.value, row.verdict) for row in rows]


def test_broken_outputs_are_inconclusive() -> None:
    forget, retain, test = (_outputs(30, sure=2, seed=seed) for seed in range(3))
    forget[0][3] = math.nan
    figures = _all(forget, retain, test)
    assert figures[:-1] == [(None, "inconclusive")] * 5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.sampled_from([0.0, 1.0, 1e4]), st.integers(0, 2**31))
def test_every_figure_is_a_share_or_says_that_there_is_none(n: int, scale: float, seed: int) -> None:
    sides = [_outputs(n, sure=scale, seed=seed + i) for i in range(3)]
    for value, verdict in _all(*sides):
        assert verdict != "measured" if value is None else 0 <= value <= 1
