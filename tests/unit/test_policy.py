"""What a policy may say: bounds that can be kept and missed, known methods, and what an acceptance freezes."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.catalogue.bounds import DEFAULT_BOUNDS, Bound, band_by_size
from service.catalogue.metrics import METRICS
from service.catalogue.metrics.ranges import RANGES, WITHOUT_INTERVAL, range_of
from service.catalogue.policy import Policy, bounds_of, frozen


def test_every_metric_has_a_range_that_holds_its_ideal() -> None:
    assert {spec.family for spec in METRICS.values()} == set(RANGES)
    assert set(RANGES) | set(METRICS) >= WITHOUT_INTERVAL
    for spec in METRICS.values():
        low, high = range_of(spec.id)
        assert spec.ideal is None or low <= spec.ideal <= high


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        ({"metric": "auc", "at_most": 1}, "unknown metric"),
        ({"metric": "accuracy"}, "name at_least, at_most or within"),
        ({"metric": "accuracy", "at_least": 1.2}, "always or never"),
        ({"metric": "accuracy", "at_least": 0}, "always or never"),
        ({"metric": "accuracy", "at_most": 1}, "always or never"),
        ({"metric": "accuracy", "at_least": 0.9, "at_most": 0.5}, "at_least is above at_most"),
        ({"metric": "relearning_delay", "at_least": 5}, "no interval"),
        ({"metric": "mia_threshold.phi.auc", "within": 0.5}, "could hold a leak"),
        ({"metric": "mia_threshold.phi.auc", "within": 0.11}, "could hold a leak"),
        ({"metric": "mia_threshold.phi.floor", "at_most": 0.6}, "never a bound"),
        ({"metric": "mia_threshold.phi.auc", "split": "test", "at_most": 0.6}, "no split test; it has none"),
        ({"metric": "utility_drop", "split": "forget", "at_most": 0.02}, "no split forget; it has test"),
        ({"metric": "accuracy", "at_least": 0.5}, "name its split: retain, forget, unseen, test"),
        ({"metric": "disagreement", "at_most": 0}, "on the end of"),
        ({"metric": "accuracy", "split": "test", "at_least": 1}, "on the end of"),
        ({"metric": "ic_err", "at_most": -1, "of": "parent", "on": "value"}, "never holds"),
        ({"metric": "ic_err", "at_least": 0, "of": "parent", "on": "value"}, "always holds"),
        ({"metric": "utility_drop", "at_most": 1, "of": "parent"}, "can be negative"),
        ({"metric": "mia_threshold.phi.auc", "at_most": 1, "of": "unseen"}, "no figure on unseen"),
        ({"metric": "accuracy", "split": "unseen", "at_most": 1, "of": "unseen"}, "no figure on unseen"),
        ({"metric": "mia_threshold.phi.auc", "within": -0.1}, "always or never"),
        ({"metric": "mia_threshold.phi.auc", "within": 0.1, "at_most": 0.6}, "stands alone"),
        ({"metric": "relearning_ratio", "within": "by_size"}, "by_size is for"),
        ({"metric": "disagreement", "within": 0.1}, "no ideal"),
        ({"metric": "accuracy", "at_most": float("nan")}, "finite"),
        ({"metric": "accuracy", "most": 0.5}, "Extra inputs"),
    ],
)
def test_a_bound_that_means_nothing_is_refused(bound: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Policy.model_validate({"gate": {"privacy": [bound]}})


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"gate": {"profit": []}}, "privacy"),
        ({"gate": {"bias": [{"metric": "accuracy", "split": "test", "at_least": x} for x in (0.5, 0.6)]}}, "twice"),
        ({"ladder": []}, "at least 1 item"),
        ({"ladder": ["retrain", "prayer"]}, "unknown methods"),
        ({"ladder": ["retrain", "retrain"]}, "twice"),
        ({"reference_models": 7}, "multiple of 2"),
        ({"small_sets": "ignore"}, "exact"),
        ({"audit_retention_days": -1}, "greater than or equal"),
    ],
)
def test_an_impossible_policy_is_refused(policy: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Policy.model_validate(policy)


@pytest.mark.parametrize(
    "bound",
    [
        {"metric": "mia_threshold.phi.auc", "within": 0.1},
        {"metric": "relearning_ratio", "at_least": 0.9},
        {"metric": "utility_drop", "at_most": 0.02},
        {"metric": "fgt_err", "at_most": 0, "on": "value"},
        {"metric": "accuracy", "split": "forget", "at_most": 1, "of": "unseen"},
        {"metric": "relearning_delay", "split": "forget", "at_least": 1, "of": "unseen", "on": "value"},
        {"metric": "prediction_agreement", "split": "test", "at_least": 0.9, "required": False},
    ],
)
def test_a_bound_that_some_models_keep_and_some_miss_is_taken(bound: dict[str, Any]) -> None:
    policy = Policy.model_validate({"gate": {"privacy": [bound]}})
    assert [stated.metric for stated in bounds_of(policy, "privacy")] == [bound["metric"]]


def test_a_purpose_not_named_has_the_default_bounds_and_an_empty_list_none() -> None:
    policy = Policy.model_validate({"gate": {"bias": []}})
    assert bounds_of(policy, "privacy") == DEFAULT_BOUNDS["privacy"]
    assert bounds_of(policy, "bias") == ()


def test_what_is_frozen_names_every_bound_and_reads_back_as_the_same_bounds() -> None:
    written = frozen({"max_accuracy_drop": 3.0}, "privacy")
    assert written["max_accuracy_drop"] == 3.0
    assert tuple(Bound.model_validate(bound) for bound in written["bounds"]) == DEFAULT_BOUNDS["privacy"]


@pytest.mark.parametrize(("n", "expected"), [(600, 0.0667), (300, 0.0944), (20, 0.3697), (100_000, 0.05)])
def test_the_band_follows_the_size(n: int, expected: float) -> None:
    # by hand, n = m = 600: SE0 = sqrt(1201 / 4_320_000) = 0.016673, four of them 0.06669
    assert band_by_size(n, n) == pytest.approx(expected, abs=1e-4)


@given(n=st.integers(1, 10_000), m=st.integers(1, 10_000))
def test_the_band_is_never_narrower_for_fewer_samples(n: int, m: int) -> None:
    assert band_by_size(n, m) >= band_by_size(n + 1, m + 1) >= 0.05
    assert band_by_size(0, m) == math.inf
