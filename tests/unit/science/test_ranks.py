"""The rank of each forgotten sample among the controls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.ranks import ranks_among_controls

scores = st.lists(st.integers(-3, 3).map(float), max_size=20)


@given(scores, scores.filter(len))
def test_a_rank_is_the_share_of_controls_at_least_as_member_like(members: list[float], controls: list[float]) -> None:
    expected = [sum(c >= m for c in controls) / len(controls) for m in members]
    assert ranks_among_controls(np.array(members), np.array(controls)) == pytest.approx(expected)


def test_without_a_score_or_a_control_there_is_no_rank() -> None:
    assert ranks_among_controls(np.array([np.nan, 1.0, np.inf]), np.array([0.0, 2.0, np.nan])) == [None, 0.5, 0.0]
    assert ranks_among_controls(np.ones(2), np.zeros(0)) == [None, None]
    assert ranks_among_controls(np.zeros(0), np.ones(3)) == []
