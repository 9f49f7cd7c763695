"""Error on the forget set beside unseen controls: known answers, the law of its sign, and sides that are missing."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

from workers.evaluation.forget_error import forget_error


def _side(wrong: int, n: int) -> tuple[Tensor, Tensor]:
    predicted = (torch.arange(n) < wrong).long()
    return 9.0 * nn.functional.one_hot(predicted, 2).float(), torch.zeros(n, dtype=torch.int64)


def test_the_error_is_set_beside_the_controls() -> None:
    rate, excess = forget_error(_side(56, 70), _side(48, 80))
    assert rate.value == pytest.approx(0.8)
    assert rate.split == "forget"
    assert excess.value == pytest.approx(0.2)
    assert excess.ci95 == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert excess.extra == {"forget_error": 0.8, "unseen_error": 0.6}


def test_without_controls_only_the_error_itself_is_measured() -> None:
    rate, excess = forget_error(_side(1, 4), _side(0, 0))
    assert (rate.value, rate.verdict) == (0.25, "measured")
    assert (excess.value, excess.verdict) == (None, "not_applicable")


def test_no_forget_sample_or_no_numbers_is_said() -> None:
    assert {r.verdict for r in forget_error(_side(0, 0), _side(1, 4))} == {"not_applicable"}
    broken = torch.full((4, 2), math.nan), torch.zeros(4, dtype=torch.int64)
    for found in forget_error(broken, _side(1, 4)):
        assert found.verdict == "inconclusive"
        json.dumps(found.to_dict(), allow_nan=False)


def test_the_excess_turns_its_sign_when_the_sides_change_places() -> None:
    for ours, theirs in ((3, 9), (0, 20), (10, 10)):
        found = forget_error(_side(ours, 20), _side(theirs, 20))[1]
        turned = forget_error(_side(theirs, 20), _side(ours, 20))[1]
        assert found.value == pytest.approx(-turned.value)  # type: ignore[operator]
        assert found.ci95 is not None
        assert turned.ci95 is not None
        assert found.ci95 == pytest.approx((-turned.ci95[1], -turned.ci95[0]))
        assert found.ci95[0] <= found.value <= found.ci95[1]  # type: ignore[operator]
