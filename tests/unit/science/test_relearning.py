"""Relearning: laws that hold by definition, censoring, and a planted model that knows against one that does not."""

import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from workers.classification import Classification
from workers.evaluation.intervals import Floats
from workers.evaluation.relearning import (
    DELAYS,
    RelearningPlan,
    RelearningRuns,
    area,
    compact,
    plan_relearning,
    relearning,
    run_relearning,
)
from workers.evaluation.relearning_curve import Curve, RelearningProfile, Target, relearn, target_loss
from workers.evaluation.relearning_rate import calibrate
from workers.evaluation.relearning_ratio import bootstrap_ratio, ratio_result
from workers.evaluation.result import MetricResult
from workers.reproducibility import generator_for
from workers.samples import LabelledSet

TASK = Classification()
PROFILE = RelearningProfile(max_steps=60, max_samples=40)
TARGET = Target(loss=0.1, accuracy=0.9)


def _noise(n: int, seed: int) -> LabelledSet:
    """Return images of noise with random labels: nothing generalises, so knowing one means remembering it."""
    generator = generator_for(seed)
    images = torch.randint(0, 256, (n, 1, 6, 6), generator=generator).to(torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(3, (n,), generator=generator))


def _fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(36, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3)
        )


def _fit(model: nn.Module, samples: LabelledSet) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        TASK.per_sample_loss(model, samples.images, samples.labels).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@cache
def _parent() -> nn.Module:
    return _fit(_fresh(0), _noise(80, 0))


@cache
def _ignorant() -> nn.Module:
    """Return a model trained without the first forty samples."""
    return _fit(_fresh(1), _noise(80, 0).take(torch.arange(40, 80)))


@cache
def _plan() -> RelearningPlan:
    forget = _noise(80, 0).take(torch.arange(40))
    unseen = [_noise(40, seed) for seed in (5, 6, 7)]
    return plan_relearning(_parent(), forget, unseen, task=TASK, seed=3, profile=PROFILE)


def _by_name(results: list[MetricResult]) -> dict[tuple[str, str | None], MetricResult]:
    return {(result.name, result.split): result for result in results}


def _curve(losses: list[float], n: int = 8) -> Curve:
    steps = len(losses)
    return Curve(
        losses=np.repeat(np.array(losses)[:, None], n, axis=1), accuracies=np.ones(steps), path=np.arange(float(steps))
    )


def test_the_parents_delay_on_the_forget_set_is_zero() -> None:
    runs = run_relearning(_parent(), _plan(), task=TASK)
    results = _by_name(relearning(runs, _plan()))
    for name in DELAYS:
        assert results[name, "forget"].value == 0
    assert results["relearning_delay", "unseen"].value >= 5  # type: ignore[operator]
    ratio = results["relearning_ratio", None]
    assert ratio.ci95 is not None
    assert ratio.ci95[1] < 0.5


def test_a_model_that_never_saw_the_set_learns_it_as_slowly_as_any_other() -> None:
    results = _by_name(relearning(run_relearning(_ignorant(), _plan(), task=TASK), _plan()))
    ratio = results["relearning_ratio", None]
    assert results["relearning_delay", "forget"].value >= 5  # type: ignore[operator]
    assert ratio.ci95 is not None
    assert ratio.ci95[0] <= 1 <= ratio.ci95[1] * 1.2
    assert 0.5 < ratio.value < 2  # type: ignore[operator]


def test_the_rate_makes_the_parent_learn_unseen_samples_within_a_quarter_of_the_cap() -> None:
    plan = _plan()
    assert plan.calibrated
    known = TASK.loss_of_logits(TASK.predict(_parent(), plan.forget), plan.forget.labels).mean()
    assert plan.target.loss == pytest.approx(target_loss(float(known)))
    index = PROFILE.rates.index(plan.rate)
    losses = [TASK.loss_of_logits(TASK.predict(_parent(), s), s.labels).mean() for s in plan.unseen]
    hardest = plan.unseen[int(torch.stack(losses).argmax())]

    def reaches(rate: float) -> bool:
        curve = relearn(_parent(), hardest, task=TASK, rate=rate, target=plan.target, cap=15, seed=3)
        return curve.delay(plan.target) is not None

    assert reaches(plan.rate)
    assert not any(reaches(rate) for rate in PROFILE.rates[:index])


def test_without_a_rate_that_reaches_the_target_the_least_bad_is_taken_and_said() -> None:
    profile = RelearningProfile(max_steps=4, rates=(1e-6, 1e-5), adam_rates=(1e-9,))
    target = Target(loss=1e-9, accuracy=1.0)
    rate, calibrated, _ = calibrate(_parent(), _noise(40, 5), task=TASK, target=target, seed=0, profile=profile)
    assert (rate, calibrated) == (1e-5, False)


def test_without_a_rate_that_reaches_the_target_adam_is_taken_where_it_came_nearer() -> None:
    profile = RelearningProfile(max_steps=8, rates=(1e-9, 1e-8), adam_rates=(1e-3, 1e-2))
    target = Target(loss=1e-9, accuracy=1.0)
    rate, calibrated, used = calibrate(_parent(), _noise(40, 5), task=TASK, target=target, seed=0, profile=profile)
    assert (rate in profile.adam_rates, calibrated, used.optimizer) == (True, False, "adam")


def test_controls_known_before_any_step_calibrate_nothing() -> None:
    known = _noise(80, 0).take(torch.arange(40))
    rate, calibrated, _ = calibrate(_parent(), known, task=TASK, target=_plan().target, seed=0, profile=PROFILE)
    assert (rate, calibrated) == (PROFILE.rates[5], False)


def test_measuring_changes_neither_the_model_nor_the_random_state() -> None:
    model = copy.deepcopy(_parent()).train().requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    run_relearning(model, _plan(), task=TASK)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(w.requires_grad or w.grad is not None for w in model.parameters())


def test_norm_statistics_stay_frozen_while_relearning(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch: list[nn.Module] = []

    def spy(self: Classification, model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        scratch.append(model)
        return original(self, model, images)

    original = Classification.logits
    monkeypatch.setattr(Classification, "logits", spy)
    relearn(_ignorant(), _noise(40, 5), task=TASK, rate=0.01, target=TARGET, cap=5, seed=0)
    before = dict(_ignorant().named_buffers())
    assert all(torch.equal(value, before[name]) for name, value in scratch[0].named_buffers())
    weights = dict(_ignorant().named_parameters())
    assert not any(torch.equal(value, weights[name]) for name, value in scratch[0].named_parameters())


@pytest.mark.parametrize("batch_size", [16, 128])
def test_equal_seeds_walk_equal_paths(batch_size: int) -> None:
    def walk(seed: int) -> Curve:
        return relearn(
            _ignorant(),
            _noise(40, 5),
            task=TASK,
            rate=0.01,
            target=TARGET,
            cap=6,
            seed=seed,
            batch_size=batch_size,
        )

    assert np.array_equal(walk(1).losses, walk(1).losses)
    assert np.array_equal(walk(1).path, walk(1).path)
    # one batch has no order
    assert np.array_equal(walk(1).losses, walk(2).losses) == (batch_size == 128)


@pytest.mark.parametrize("batch_size", [16, 128])
def test_path_is_the_length_walked_and_losses_are_those_of_the_whole_set(batch_size: int) -> None:
    samples = _noise(40, 5)
    curve = relearn(_ignorant(), samples, task=TASK, rate=0.01, target=TARGET, cap=1, seed=0, batch_size=batch_size)
    start = TASK.predict(_ignorant(), samples)
    assert curve.losses[0] == pytest.approx(TASK.loss_of_logits(start, samples.labels).numpy(), rel=1e-5)
    assert curve.accuracies[0] == TASK.accuracy(start, samples.labels)
    assert curve.losses.shape == (2, 40)
    assert curve.path[0] == 0
    assert curve.path[1] > 0


def test_a_run_that_diverges_ends_and_counts_as_never_there() -> None:
    model = _fresh(2)
    curve = relearn(model, _noise(40, 5), task=TASK, rate=1e30, target=TARGET, cap=50, seed=0)
    assert len(curve.losses) < 51
    assert curve.delay(TARGET) is None
    assert all(math.isfinite(value) for shown in compact([curve]) for value in shown["loss"])


def _ratio(ours: list[Curve], theirs: list[Curve]) -> MetricResult:
    return ratio_result(ours, theirs, target=TARGET, cap=3, seed=0)


REACHED_AT_1 = [1.0, 0.01, 0.01]
NEVER = [1.0, 1.0, 1.0, 1.0]


def test_the_ratio_meets_zeros_by_half_a_step() -> None:
    at_0, at_1 = _curve([0.01]), _curve(REACHED_AT_1)
    assert _ratio([at_0], [at_0]).value == pytest.approx(1.0)
    assert _ratio([at_0], [at_1]).value == pytest.approx(0.5 / 1.5)
    assert _ratio([at_1, at_0], [at_0, at_1]).value == pytest.approx(1.0)


def test_a_forget_set_at_the_cap_gives_a_lower_bound() -> None:
    result = _ratio([_curve(NEVER), _curve(NEVER)], [_curve(REACHED_AT_1)] * 2)
    assert (result.censored, result.verdict) == (True, "measured")
    assert result.extra is not None
    assert result.extra["bound"] == "lower"
    assert result.value == pytest.approx(3.5 / 1.5)


def test_controls_at_the_cap_give_an_upper_bound_whose_interval_starts_at_zero() -> None:
    result = _ratio([_curve(REACHED_AT_1)], [_curve(NEVER)])
    assert result.extra is not None
    assert result.extra["bound"] == "upper"
    assert result.ci95 is not None
    assert result.ci95[0] == 0.0


def test_both_at_the_cap_is_inconclusive_with_the_areas_beside_it() -> None:
    result = _ratio([_curve(NEVER)], [_curve([2.0, 2.0, 2.0, 2.0])])
    assert (result.value, result.verdict, result.censored) == (None, "inconclusive", True)
    assert result.extra is not None
    assert result.extra["area_difference"] == pytest.approx(-4.0)


def test_a_delay_at_the_cap_is_marked_and_never_averaged() -> None:
    def delay(curves: list[Curve]) -> MetricResult:
        runs = RelearningRuns(forget=tuple(curves), unseen=tuple(curves))
        return relearning(runs, _plan(), classes_gone=[1])[0]

    never, soon = _curve([9.0] * 61), _curve([9.0, 0.0])
    censored, measured = delay([never, never, soon]), delay([never, soon, soon])
    assert (censored.value, censored.censored) == (60.0, True)
    assert (measured.value, measured.censored) == (1.0, None)
    assert measured.extra == {"per_seed": [None, 1, 1], "cap": 60}


def test_with_a_whole_class_forgotten_there_is_no_ratio() -> None:
    runs = run_relearning(_parent(), _plan(), task=TASK)
    result = relearning(runs, _plan(), classes_gone=[2])[-1]
    assert (result.name, result.verdict, result.value) == ("relearning_ratio", "not_applicable", None)


def test_area_counts_what_is_above_the_target_before_it_is_reached() -> None:
    assert area(_curve([1.1, 0.6, 0.1, 0.0]), TARGET) == pytest.approx(1.5)
    assert area(_curve([0.05, 5.0]), TARGET) == 0.0


def test_the_bootstrap_sees_samples_and_seeds() -> None:
    rng = np.random.default_rng(0)
    noisy = [
        Curve(losses=np.linspace(0.4, 0, 30)[:, None] * rng.uniform(0, 2, 8), accuracies=np.ones(30), path=np.ones(30))
        for _ in range(3)
    ]
    low, high = bootstrap_ratio(noisy, noisy[::-1], target=TARGET, seed=1)
    assert low < 1 < high
    assert (low, high) == bootstrap_ratio(noisy, noisy[::-1], target=TARGET, seed=1)


def test_compact_curves_are_thin() -> None:
    [shown] = compact([_curve([1.0] * 201)])
    assert len(shown["step"]) == len(shown["loss"]) == len(shown["accuracy"]) <= 52


def test_the_interval_covers_the_ratio_of_samples_drawn_alike() -> None:
    """Losses fall at a pace of their own per sample; three draws of controls come from one pool."""
    rng, n, pool = np.random.default_rng(0), 100, 300
    target = Target(loss=0.25, accuracy=0.9)

    def samples(count: int) -> tuple[Floats, Floats]:
        return rng.gamma(1.0, 0.4, count), rng.gamma(4.0, 0.25, count)

    def curve(starts: Floats, paces: Floats) -> Curve:
        wander = np.exp(0.01 * np.cumsum(rng.normal(size=(120, 1)), 0))
        falling = starts * np.exp(-paces * np.arange(120)[:, None] / 60) * wander
        return Curve(losses=falling, accuracies=np.ones(120), path=np.zeros(120))

    covered = 0
    for draw in range(1000):
        starts, paces = samples(pool)
        forgotten = samples(n)
        unseen = [curve(starts[i], paces[i]) for i in (rng.permutation(pool)[:n] for _ in range(3))]
        forget = [curve(*forgotten) for _ in range(3)]
        low, high = bootstrap_ratio(forget, unseen, target=target, seed=draw, resamples=200)
        covered += low <= 1 <= high
    assert 930 <= covered <= 970
