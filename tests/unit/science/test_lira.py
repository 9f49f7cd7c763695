"""LiRA and U-LiRA against the definition in loops, planted answers, and samples that lack reference models."""

import math
from statistics import NormalDist, fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.evaluation.lira import lira_offline, lira_online, log_ratios, offline_scores
from workers.evaluation.result import MetricResult
from workers.evaluation.u_lira import u_lira

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def _case(seed: int, *, k: int, n: int) -> tuple[Floats, Floats, Bools]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n), rng.normal(size=(k, n)), rng.random((k, n)) < 0.5


def _by_loops(target: Floats, reference: Floats, used: Bools) -> tuple[list[float], list[float]]:
    """Return each sample's mean and deviation: pooled with n - 1 below 32 models, else its own, floored."""
    k, n = reference.shape
    cells = [[float(reference[j, i]) for j in range(k) if used[j, i]] for i in range(n)]
    means = [fmean(cell) if cell else math.nan for cell in cells]
    squares = [sum((x - mean) ** 2 for x in cell) for cell, mean in zip(cells, means, strict=True)]
    pooled = sum(squares) / sum(len(cell) - 1 for cell in cells if cell)
    own = [s / (len(c) - 1) if k >= 32 and len(c) > 1 else pooled for s, c in zip(squares, cells, strict=True)]
    return means, [math.sqrt(max(variance, pooled / 1000)) for variance in own]


@pytest.mark.parametrize("k", [2, 8, 40])
def test_offline_scores_equal_the_definition(k: int) -> None:
    target, reference, seen = _case(0, k=k, n=60)
    means, deviations = _by_loops(target, reference, ~seen)
    found = offline_scores(target, reference=reference, seen=seen)
    standard = NormalDist()
    for phi, mean, deviation, score in zip(target, means, deviations, found, strict=True):
        if math.isnan(mean):
            assert math.isnan(score)
        else:
            assert standard.cdf(score) == pytest.approx(NormalDist(mean, deviation).cdf(phi), abs=1e-12)


@pytest.mark.parametrize("k", [4, 8, 40])
def test_log_ratios_equal_the_definition(k: int) -> None:
    target, reference, seen = _case(1, k=k, n=60)
    (mean_in, std_in), (mean_out, std_out) = _by_loops(target, reference, seen), _by_loops(target, reference, ~seen)
    found = log_ratios(target, reference=reference, inside=seen, outside=~seen)
    for i, score in enumerate(found):
        if math.isnan(mean_in[i]) or math.isnan(mean_out[i]):
            assert math.isnan(score)
            continue
        inside, outside = NormalDist(mean_in[i], std_in[i]), NormalDist(mean_out[i], std_out[i])
        expected = math.log(inside.pdf(float(target[i])) / outside.pdf(float(target[i])))
        assert score == pytest.approx(expected, rel=1e-9, abs=1e-9)


def _audit(shift: float, *, n: int = 400, k: int = 8, known: float = 3.0) -> tuple[Floats, Bools, Floats, Bools]:
    """Return an audit where members' phi is raised by `shift`, and by `known` under references that saw the sample.

    Difficulty varies ten times as much as the noise.
    """
    rng = np.random.default_rng(2)
    difficulty, is_member = 10 * rng.normal(size=n), np.arange(n) < n // 2
    seen = rng.permuted(np.arange(k)[:, None] + np.zeros((1, n)), axis=0) < k // 2
    reference = difficulty + known * seen + rng.normal(size=(k, n))
    return difficulty + shift * is_member + rng.normal(size=n), is_member, reference, seen


def _auc(results: list[MetricResult]) -> tuple[float, tuple[float, float]]:
    assert results[0].value is not None
    assert results[0].ci95 is not None
    return results[0].value, results[0].ci95


@pytest.mark.parametrize("attack", [lira_offline, lira_online])
def test_forgotten_as_unseen_reads_half_and_remembered_reads_one(attack) -> None:  # type: ignore[no-untyped-def]
    target, is_member, reference, seen = _audit(0.0)
    low, high = _auc(attack(target, is_member, reference=reference, seen=seen))[1]
    assert low <= 0.5 <= high
    target, is_member, reference, seen = _audit(100.0, known=100.0)
    assert _auc(attack(target, is_member, reference=reference, seen=seen))[0] == 1.0


def test_references_see_through_difficulty_where_phi_alone_does_not() -> None:
    target, is_member, reference, seen = _audit(3.0)
    wins = (target[is_member][:, None] > target[~is_member]).mean()
    assert wins < 0.65
    assert _auc(lira_online(target, is_member, reference=reference, seen=seen))[0] > 0.9


@pytest.mark.parametrize("attack", [lira_offline, lira_online])
def test_the_family_is_whole_and_keeps_to_the_limits_of_its_controls(attack) -> None:  # type: ignore[no-untyped-def]
    target, is_member, reference, seen = _audit(0.0)
    results = attack(target, is_member, reference=reference, seen=seen)
    assert [row.name.split(".")[1] for row in results] == ["auc", "tpr_at_fpr_1pct", "tpr_at_fpr_0_1pct"]
    assert [row.verdict for row in results] == ["measured", "inconclusive", "inconclusive"]
    assert all(row.n == 200 for row in results)


def test_samples_that_every_model_saw_are_left_out_and_counted() -> None:
    target, is_member, reference, seen = _audit(0.0, n=40)
    seen[:, [0, 1, 39]] = True
    auc = lira_offline(target, is_member, reference=reference, seen=seen)[0]
    assert auc.n == 18
    assert auc.extra == {"reference_models": 8, "members_left_out": 2, "controls_left_out": 1}
    # what the values of those samples are has no say in the rest
    others = target.copy()
    others[[0, 1, 39]] = 1e6
    assert lira_offline(others, is_member, reference=reference, seen=seen)[0].value == auc.value


def test_no_sample_with_the_models_needed_is_not_applicable() -> None:
    target, is_member, reference, seen = _audit(0.0, n=10)
    every = np.ones_like(seen)
    assert {row.verdict for row in lira_offline(target, is_member, reference=reference, seen=every)} == {
        "not_applicable"
    }
    online = lira_online(target, is_member, reference=reference, seen=every)
    assert {(row.value, row.verdict) for row in online} == {(None, "inconclusive")}
    assert "at least 2 reference models" in str((online[0].extra or {})["reason"])


def test_one_model_on_the_outside_still_ranks_offline() -> None:
    target, is_member, reference, _ = _audit(100.0, n=40, k=1)
    seen = np.zeros((1, 40), bool)
    assert lira_offline(target, is_member, reference=reference, seen=seen)[0].value == 1.0


@pytest.mark.parametrize("k", [8, 40])
def test_reference_models_that_all_agree_give_no_nan(k: int) -> None:
    target, is_member, _, _ = _audit(0.0, n=40)
    seen = np.arange(k)[:, None] % 2 == np.zeros((1, 40))
    for attack in (lira_offline, lira_online):
        for row in attack(target, is_member, reference=np.ones((k, 40)), seen=seen):
            assert row.value is not None
            assert math.isfinite(row.value)


@pytest.mark.parametrize("broken", [math.inf, -math.inf, math.nan])
def test_infinite_phi_is_inconclusive_unless_it_is_not_used(broken: float) -> None:
    target, is_member, reference, seen = _audit(0.0, n=40)
    spoilt = target.copy()
    spoilt[3] = broken
    for attack in (lira_offline, lira_online):
        rows = attack(spoilt, is_member, reference=reference, seen=seen)
        assert {(row.value, row.verdict) for row in rows} == {(None, "inconclusive")}
    before = lira_offline(target, is_member, reference=reference, seen=seen)[0]
    reference[seen] = broken
    assert lira_offline(target, is_member, reference=reference, seen=seen)[0] == before
    assert lira_online(target, is_member, reference=reference, seen=seen)[0].value is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    target, is_member, reference, seen = _audit(0.0, n=40)
    with pytest.raises(ValueError, match=r"\(k, N\)"):
        lira_offline(target, is_member, reference=reference.T, seen=seen.T)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 30))
def test_every_figure_is_a_share_inside_its_interval(seed: int, k: int, n: int) -> None:
    target, reference, seen = _case(seed, k=k, n=n)
    is_member = np.arange(n) % 2 == 0
    rows = [
        *lira_offline(target, is_member, reference=reference, seen=seen),
        *lira_online(target, is_member, reference=reference, seen=seen),
    ]
    for row in rows:
        if row.value is not None:
            assert row.ci95 is not None
            assert 0 <= row.ci95[0] <= row.value <= row.ci95[1] <= 1
        else:
            assert (row.extra or {})["reason"]


def test_u_lira_tells_what_the_method_leaves_behind_and_ignores_models_that_kept_the_sample() -> None:
    rng = np.random.default_rng(4)
    n, runs = 300, 24
    what = np.arange(runs)[:, None] % 3 + np.zeros((1, n))  # kept, unlearned, never seen
    difficulty, is_member = 10 * rng.normal(size=n), np.arange(n) % 2 == 0
    reference = difficulty + rng.normal(size=(runs, n)) - 4.0 * (what == 1)  # the method overshoots: phi falls
    target = difficulty + rng.normal(size=n) - 4.0 * is_member
    masks = {"unlearned": what == 1, "unseen": what == 2}
    rows = u_lira(target, is_member, reference=reference, **masks)
    assert [row.name for row in rows] == ["u_lira.auc", "u_lira.tpr_at_fpr_1pct", "u_lira.tpr_at_fpr_0_1pct"]
    assert (rows[0].value or 0) > 0.98
    reference[what == 0] = np.nan
    assert u_lira(target, is_member, reference=reference, **masks) == rows


def test_u_lira_refuses_a_model_that_both_unlearned_and_never_saw() -> None:
    both = np.ones((4, 6), bool)
    with pytest.raises(ValueError, match="both"):
        u_lira(np.zeros(6), np.arange(6) < 3, reference=np.zeros((4, 6)), unlearned=both, unseen=both)
