"""Unlearned against retrained: gaps and products by hand, coverage on simulated draws, and sets that are missing."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from workers.evaluation.against_retrained import SPLITS, avg_gap, avg_gap_with_mia, prediction_agreement, tow
from workers.evaluation.result import MetricResult

DRAWS = 1000
Models = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def _logits(right: list[int]) -> Tensor:
    """Return logits that predict class 0 where `right` is 1, and class 1 elsewhere; every label is 0."""
    return 5.0 * nn.functional.one_hot(1 - torch.tensor(right, dtype=torch.int64), 2).float()


def _models(ours: list[list[int]], theirs: list[list[int]]) -> Models:
    labels = {split: torch.zeros(len(right), dtype=torch.int64) for split, right in zip(SPLITS, ours, strict=True)}
    sides = ({split: _logits(r) for split, r in zip(SPLITS, side, strict=True)} for side in (ours, theirs))
    unlearned, retrained = sides
    return unlearned, retrained, labels


# retain 3/4 against 4/4, forget 2/4 against 1/4, test 1/2 against 1/2
BY_HAND = _models([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0]], [[1, 1, 1, 1], [1, 0, 0, 0], [0, 1]])


def test_gaps_by_hand() -> None:
    found = avg_gap(*BY_HAND)
    assert found.value == pytest.approx((0.25 + 0.25 + 0) / 3)
    assert found.n == 2
    assert found.extra is not None
    assert {split: gap["value"] for split, gap in found.extra["gaps"].items()} == {
        "retain": -0.25,
        "forget": 0.25,
        "test": 0.0,
    }


def test_tow_by_hand() -> None:
    assert tow(*BY_HAND).value == pytest.approx(0.75 * 0.75 * 1)


def test_the_attack_is_a_fourth_gap() -> None:
    scores = np.array([1.0, 3.0]), np.array([0.0, 2.0])  # 3 of 4 pairs won
    theirs = np.array([0.0, 2.0]), np.array([1.0, 3.0])  # 1 of 4
    found = avg_gap_with_mia(*BY_HAND, scores=scores, retrained_scores=theirs)
    assert found.value == pytest.approx((0.25 + 0.25 + 0 + 0.5) / 4)
    assert found.name == "avg_gap_with_mia"


def test_a_model_against_itself_has_no_gap_and_full_agreement() -> None:
    unlearned, _, labels = BY_HAND
    gap, product = avg_gap(unlearned, unlearned, labels), tow(unlearned, unlearned, labels)
    assert (gap.value, product.value) == (0.0, 1.0)
    assert gap.ci95 is not None
    assert product.ci95 is not None
    assert gap.ci95[0] == 0
    assert product.ci95[1] == 1
    assert prediction_agreement(unlearned["forget"], unlearned["forget"]).value == 1.0


def test_agreement_counts_equal_classes_right_or_wrong() -> None:
    found = prediction_agreement(_logits([1, 1, 0, 0]), _logits([1, 0, 0, 1]))
    assert (found.value, found.n, found.split) == (0.5, 4, "forget")


answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=12)


@given(retain=answers, forget=answers, test=answers)
def test_tow_and_gap_stay_in_0_1_inside_their_intervals_and_are_symmetric(
    retain: list[tuple[int, int]], forget: list[tuple[int, int]], test: list[tuple[int, int]]
) -> None:
    pairs = (retain, forget, test)
    ours, theirs, labels = _models([[a for a, _ in p] for p in pairs], [[b for _, b in p] for p in pairs])
    for metric in (tow, avg_gap):
        found, turned = metric(ours, theirs, labels), metric(theirs, ours, labels)
        assert found.value is not None
        assert found.ci95 is not None
        assert 0 <= found.ci95[0] <= found.value + 1e-9
        assert found.value - 1e-9 <= found.ci95[1] <= 1
        assert found.value == pytest.approx(turned.value)
        assert found.ci95 == pytest.approx(turned.ci95)


def test_opposite_models_make_tow_zero() -> None:
    found = tow(*_models([[1] * 9, [1] * 9, [1] * 9], [[0] * 9, [1] * 9, [1] * 9]))
    assert found.value == 0
    assert found.ci95 is not None
    assert found.ci95[0] == 0
    assert 0 < found.ci95[1] < 1


def _draw(rng: np.random.Generator, n: int, rates: tuple[float, float]) -> tuple[list[int], list[int]]:
    """Return correlated outcomes: half of the samples are answered alike as far as the rates allow."""
    shared, own = rng.random(n), rng.random(n)
    other = np.where(rng.random(n) < 0.5, shared, own)
    return [int(x) for x in shared < rates[0]], [int(x) for x in other < rates[1]]


@pytest.mark.parametrize(
    "rates", [((0.95, 0.8), (0.5, 0.8), (0.7, 0.85)), ((0.6, 0.8), (0.9, 0.7), (0.5, 0.65))], ids=["a", "b"]
)
def test_gap_and_product_are_covered_where_the_models_differ(rates: tuple[tuple[float, float], ...]) -> None:
    rng = np.random.default_rng(0)
    gaps = [abs(a - b) for a, b in rates]
    truths = {avg_gap: sum(gaps) / 3, tow: math.prod(1 - gap for gap in gaps)}
    hits = dict.fromkeys(truths, 0)
    for _ in range(DRAWS):
        drawn = [_draw(rng, 200, pair) for pair in rates]
        models = _models([ours for ours, _ in drawn], [theirs for _, theirs in drawn])
        for metric, truth in truths.items():
            interval = metric(*models).ci95
            assert interval is not None
            hits[metric] += interval[0] <= truth <= interval[1]
    assert all(0.93 <= hit / DRAWS <= 0.97 for hit in hits.values()), hits


def test_models_that_do_not_differ_are_covered_at_least_as_often() -> None:
    rng, hits = np.random.default_rng(1), 0
    for _ in range(DRAWS):
        drawn = [_draw(rng, 200, (0.8, 0.8)) for _ in SPLITS]
        found = avg_gap(*_models([ours for ours, _ in drawn], [theirs for _, theirs in drawn]))
        assert found.ci95 is not None
        hits += found.ci95[0] <= 0
    assert hits / DRAWS >= 0.93


def _all(models: Models) -> list[MetricResult]:
    scores = np.ones(2), np.zeros(2)
    return [
        avg_gap(*models),
        tow(*models),
        avg_gap_with_mia(*models, scores=scores, retrained_scores=scores),
    ]


def test_an_empty_set_is_named_and_nothing_is_claimed() -> None:
    for found in _all(_models([[1], [], [1]], [[1], [], [1]])):
        assert (found.value, found.verdict) == (None, "not_applicable")
        assert found.extra is not None
        assert "forget" in found.extra["reason"]
    assert prediction_agreement(torch.zeros(0, 2), torch.zeros(0, 2)).verdict == "not_applicable"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_logits_are_inconclusive_and_never_nan(bad: float) -> None:
    unlearned, retrained, labels = BY_HAND
    broken = {**unlearned, "test": torch.full((2, 2), bad)}
    for found in [*_all((broken, retrained, labels)), prediction_agreement(broken["test"], retrained["test"])]:
        assert (found.value, found.verdict) == (None, "inconclusive")
        json.dumps(found.to_dict(), allow_nan=False)


def test_an_attack_without_scores_is_said() -> None:
    none, one = np.zeros(0), np.ones(1)
    assert avg_gap_with_mia(*BY_HAND, scores=(none, one), retrained_scores=(none, one)).verdict == "not_applicable"
    nan = np.array([math.nan])
    assert avg_gap_with_mia(*BY_HAND, scores=(nan, one), retrained_scores=(one, one)).verdict == "inconclusive"
