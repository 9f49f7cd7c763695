"""Those who stayed: the change of the attack on them, and whether training on them brings the forgotten back."""

import json
import math

import numpy as np
import pytest

from workers.evaluation.retain_side import retain_harm


def _auc(members: list[float], controls: list[float]) -> float:
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in members for b in controls]
    return sum(wins) / len(wins)


def test_retain_harm_is_the_rise_of_the_auc() -> None:
    before = [0.2, 0.7, 0.4], [0.3, 0.5]
    after = [0.9, 0.8, 0.5], [0.3, 0.5]
    found = retain_harm(
        (np.array(before[0]), np.array(before[1])),
        (np.array(after[0]), np.array(after[1])),
    )
    assert found.value == pytest.approx(_auc(*after) - _auc(*before))
    assert (found.name, found.split, found.n) == ("retain_harm", "retain", 2)
    assert found.ci95 is not None
    assert found.value is not None
    assert found.ci95[0] <= found.value <= found.ci95[1]


def test_a_model_does_no_harm_to_itself() -> None:
    scores = np.arange(30.0), np.arange(40.0) - 5
    found = retain_harm(scores, scores)
    assert found.value == 0
    assert found.ci95 is not None
    assert found.ci95[0] < 0 < found.ci95[1]


def test_retain_harm_without_samples_or_numbers_is_said() -> None:
    none, one, nan = np.zeros(0), np.ones(1), np.array([math.nan])
    assert retain_harm((none, one), (none, one)).verdict == "not_applicable"
    for found in (retain_harm((nan, one), (one, one)), retain_harm((one, one), (one, nan))):
        assert (found.value, found.verdict) == (None, "inconclusive")
        json.dumps(found.to_dict(), allow_nan=False)
