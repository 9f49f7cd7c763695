"""The thorough profile and anamnesis: ratios by hand, what caps mean, and models planted to know or not to know."""

import copy
import json
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from workers.classification import Classification
from workers.evaluation.intervals import Floats
from workers.evaluation.relearning import RelearningPlan, RelearningRuns, plan_relearning, run_relearning
from workers.evaluation.relearning_curve import Curve, RelearningProfile
from workers.evaluation.relearning_fresh_head import head_delay, with_fresh_head
from workers.evaluation.relearning_ratio import bootstrap_ratio
from workers.evaluation.relearning_thorough import (
    anamnesis,
    plan_thorough,
    run_thorough,
    thorough_relearning,
    thorough_results,
)
from workers.reproducibility import generator_for
from workers.samples import LabelledSet

TASK = Classification()
PROFILE = RelearningProfile(max_steps=40, max_samples=30)


def _noise(n: int, seed: int) -> LabelledSet:
    generator = generator_for(seed)
    images = torch.randint(0, 256, (n, 1, 6, 6), generator=generator).to(torch.uint8)
    return LabelledSet(images=images, labels=torch.randint(3, (n,), generator=generator))


def _fitted(samples: LabelledSet, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(36, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 3))
    rule = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(120):
        rule.zero_grad()
        TASK.per_sample_loss(net, samples.images, samples.labels).mean().backward()  # type: ignore[no-untyped-call]
        rule.step()
    return net.eval()


FORGET = torch.arange(30)


@cache
def _parent() -> nn.Module:
    return _fitted(_noise(60, 0), 0)


@cache
def _retrained(seed: int) -> nn.Module:
    return _fitted(_noise(60, 0).take(torch.arange(30, 60)), seed)


def _unseen() -> list[LabelledSet]:
    return [_noise(30, seed) for seed in (5, 6, 7)]


@cache
def _base() -> RelearningPlan:
    return plan_relearning(_parent(), _noise(60, 0).take(FORGET), _unseen(), task=TASK, seed=3, profile=PROFILE)


@cache
def _plans() -> tuple[RelearningPlan, ...]:
    return plan_thorough(_parent(), _base(), task=TASK, profile=PROFILE)


@cache
def _retrained_runs() -> tuple[RelearningRuns, ...]:
    return run_thorough(_retrained(1), _plans(), task=TASK)


def _curve(delay: int | None, n: int = 30) -> Curve:
    """Return a curve at 9 nats that falls to 0 at the delay; None: it never does, in 40 steps."""
    losses = [9.0] * 41 if delay is None else [9.0] * delay + [0.0]
    steps = len(losses)
    return Curve(
        losses=np.repeat(np.array(losses)[:, None], n, axis=1), accuracies=np.ones(steps), path=np.arange(float(steps))
    )


def _runs(forget: list[int | None], unseen: list[int | None]) -> RelearningRuns:
    return RelearningRuns(forget=tuple(map(_curve, forget)), unseen=tuple(map(_curve, unseen)))


def test_the_profile_is_three_rates_by_three_seeds_by_two_optimisers() -> None:
    plans = _plans()
    assert [plan.profile.optimizer for plan in plans] == ["sgd"] * 3 + ["adam"] * 3
    for group in (plans[:3], plans[3:]):
        assert [plan.rate / group[1].rate for plan in group] == pytest.approx([0.5, 1, 2])
    assert all(len(plan.unseen) == 3 for plan in plans)
    assert len({plan.target.loss for plan in plans}) == 1


def test_anamnesis_by_hand_with_half_a_step_for_zeros() -> None:
    found = anamnesis(_runs([0, 3, 9], [1] * 3), _plans()[0], retrained=_runs([3, 3, 4], [1] * 3))
    logs = [math.log(0.5 / 3.5), 0.0, math.log(9.5 / 4.5)]
    assert found.value == pytest.approx(math.exp(sum(logs) / 3))
    assert found.extra == {"unlearned_per_seed": [0, 3, 9], "retrained_per_seed": [3, 3, 4]}
    assert found.ci95 is not None
    assert found.value is not None
    assert found.ci95[0] <= found.value <= found.ci95[1]


@pytest.mark.parametrize(
    ("ours", "theirs", "bound"), [([None, 5, 5], [5, 5, 5], "lower"), ([5, 5, 5], [5, None, 5], "upper")]
)
def test_one_model_at_the_cap_gives_a_bound(ours: list[int | None], theirs: list[int | None], bound: str) -> None:
    found = anamnesis(_runs(ours, [1] * 3), _plans()[0], retrained=_runs(theirs, [1] * 3))
    assert found.extra is not None
    assert (found.extra["bound"], found.censored) == (bound, True)


@pytest.mark.parametrize("theirs", [[None, 5, 5], [5, None, 5]])
def test_both_models_at_the_cap_is_inconclusive_and_never_nan(theirs: list[int | None]) -> None:
    found = anamnesis(_runs([None, 5, 5], [1] * 3), _plans()[0], retrained=_runs(theirs, [1] * 3))
    assert (found.value, found.verdict, found.censored) == (None, "inconclusive", True)
    json.dumps(found.to_dict(), allow_nan=False)


def test_without_a_retrained_model_there_is_no_anamnesis() -> None:
    runs = _runs([1] * 3, [1] * 3)
    assert anamnesis(runs, _plans()[0], retrained=None).verdict == "not_applicable"
    assert thorough_results([runs] * 6, _plans())[1].verdict == "not_applicable"


def test_a_retrained_model_beside_another_has_an_anamnesis_of_one_and_the_parent_far_less() -> None:
    plan = _plans()[1]
    theirs = run_relearning(_retrained(1), plan, task=TASK)
    other = anamnesis(run_relearning(_retrained(2), plan, task=TASK), plan, retrained=theirs)
    parent = anamnesis(run_relearning(_parent(), plan, task=TASK), plan, retrained=theirs)
    assert other.value == pytest.approx(1, abs=0.35)
    assert parent.ci95 is not None
    assert parent.ci95[1] < 0.5
    same = anamnesis(theirs, plan, retrained=theirs)
    # one set, weighed alike on both sides: a model beside itself has no noise
    assert (same.value, same.ci95) == (1.0, (1.0, 1.0))


def test_the_thorough_ratio_is_the_mean_over_cells_by_hand() -> None:
    runs = [_runs([1, 2, 3], [2, 2, 2])] * 3 + [_runs([4, 4, 4], [1, 1, 1])] * 3
    ratio, _ = thorough_results(runs, _plans())
    cells = [math.log(x / 2.5) for x in (1.5, 2.5, 3.5)] * 3 + [math.log(4.5 / 1.5)] * 9
    assert ratio.value == pytest.approx(math.exp(sum(cells) / 18))
    assert ratio.extra is not None
    assert ratio.extra["cells_left_out"] == 0
    assert len(ratio.extra["settings"]) == 6
    assert ratio.extra["settings"][4]["optimizer"] == "adam"
    assert ratio.extra["settings"][0]["forget"] == [1, 2, 3]


def test_cells_at_the_cap_on_both_sides_are_left_out_and_counted() -> None:
    slow, quick = _runs([None] * 3, [None] * 3), _runs([3] * 3, [3] * 3)
    ratio, _ = thorough_results([slow, quick, quick, quick, quick, quick], _plans())
    assert ratio.value == pytest.approx(1)
    assert ratio.extra is not None
    assert ratio.extra["cells_left_out"] == 3
    nothing, _ = thorough_results([slow] * 6, _plans())
    assert (nothing.value, nothing.verdict, nothing.censored) == (None, "inconclusive", True)
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_a_whole_class_has_no_thorough_ratio_but_an_anamnesis() -> None:
    runs = [_runs([2] * 3, [1] * 3)] * 6
    ratio, memory = thorough_results(runs, _plans(), retrained=[_runs([4] * 3, [1] * 3)] * 6, classes_gone=[1])
    assert (ratio.value, ratio.verdict) == (None, "not_applicable")
    assert memory.value == pytest.approx(2.5 / 4.5)


def test_the_profile_runs_from_end_to_end() -> None:
    plans = [replace(plan, profile=replace(plan.profile, max_steps=12)) for plan in _plans()[::3]]
    runs = run_thorough(_parent(), plans, task=TASK)
    ratio, memory = thorough_results(runs, plans, retrained=run_thorough(_retrained(1), plans, task=TASK))
    for found in (ratio, memory):
        assert found.ci95 is not None or found.verdict == "inconclusive"
        json.dumps(found.to_dict(), allow_nan=False)
    assert [run.forget[0].delay(plan.target) for run, plan in zip(runs, plans, strict=True)] == [0, 0]


def test_a_seed_is_drawn_with_all_its_cells() -> None:
    # two seeds that disagree, each repeated in 9 settings: as wide as the two alone, not a ninth of it
    ours, theirs = [_curve(0), _curve(20)], [_curve(5), _curve(5)]
    target = _base().target
    alone = bootstrap_ratio(ours, theirs, target=target, seed=0)
    together = bootstrap_ratio(ours * 9, theirs * 9, target=target, seed=0, cell_seeds=[0, 1] * 9)
    apart = bootstrap_ratio(ours * 9, theirs * 9, target=target, seed=0)
    assert together == pytest.approx(alone)
    assert apart[1] / apart[0] < together[1] / together[0]


def _barely() -> Curve:
    """Return a curve whose samples fall at rates of their own and whose mean has not yet reached 0."""
    slopes: Floats = np.random.default_rng(0).uniform(0.2, 2, 30)
    losses = np.linspace(9, 1, 37)[:, None] * slopes
    return Curve(losses=losses, accuracies=np.ones(37), path=np.arange(37.0))


def test_a_run_beside_itself_has_no_noise_even_where_resamples_never_get_there() -> None:
    # the target is met at the last step alone: resamples that weigh slow samples more never meet it
    run = _barely()
    target = replace(_base().target, loss=float(run.mean_losses[-1]) + 1e-9)
    assert run.delay(target) == 36
    assert bootstrap_ratio([run], [run], target=target, seed=0)[0] == 0.0
    assert bootstrap_ratio([run], [run], target=target, seed=0, same_samples=True) == (1.0, 1.0)
    cells, seeds = [run] * 4, [0, 0, 1, 1]
    several = bootstrap_ratio(cells, cells, target=target, seed=0, same_samples=True, cell_seeds=seeds)
    assert several == (1.0, 1.0)


def test_with_every_resample_short_of_the_target_the_interval_says_nothing() -> None:
    never = [_curve(None)]
    assert bootstrap_ratio(never, never, target=_base().target, seed=0, same_samples=True) == (0.0, math.inf)


def test_a_fresh_head_keeps_the_features_and_depends_on_its_seed_alone() -> None:
    model = _parent()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one, again, other = (with_fresh_head(model, seed=seed) for seed in (1, 1, 2))
    assert one is not None
    assert again is not None
    assert other is not None
    for name, value in one.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("4."))
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(one.state_dict()["4.weight"], other.state_dict()["4.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_parent_knows_at_once_what_a_fresh_head_has_to_learn() -> None:
    found = head_delay(_parent(), _plans()[2], task=TASK)
    assert found.value is not None
    assert found.value > 0
    assert (found.name, found.split, found.n) == ("relearning_head_delay", "forget", 30)
    assert run_relearning(_parent(), _plans()[2], task=TASK).forget[0].delay(_plans()[2].target) == 0
    no_head = nn.Sequential(nn.Conv2d(1, 3, 6), nn.Flatten())
    assert head_delay(no_head, _plans()[0], task=TASK).verdict == "not_applicable"


def test_a_model_beside_itself_has_an_anamnesis_of_one_without_any_width() -> None:
    _, memory = thorough_results(_retrained_runs(), _plans(), retrained=_retrained_runs())
    assert (memory.value, memory.ci95) == (1.0, (1.0, 1.0))


def test_the_originals_delay_on_the_forget_set_is_zero_in_every_cell() -> None:
    runs = run_thorough(_parent(), _plans(), task=TASK)
    ratio, memory = thorough_results(runs, _plans(), retrained=_retrained_runs())
    assert ratio.extra is not None
    assert memory.extra is not None
    assert [row["forget"] for row in ratio.extra["settings"]] == [[0, 0, 0]] * 6
    assert [row["unlearned"] for row in memory.extra["settings"]] == [[0, 0, 0]] * 6
    for found in (ratio, memory):
        assert found.ci95 is not None
        assert found.ci95[1] < 0.5


def test_the_yardsticks_own_ratio_stands_beside_the_models() -> None:
    ratio, _ = thorough_results(run_thorough(_parent(), _plans(), task=TASK), _plans(), retrained=_retrained_runs())
    own, _ = thorough_results(_retrained_runs(), _plans())
    assert ratio.extra is not None
    assert (ratio.extra["retrained"]["value"], ratio.extra["retrained"]["ci95"]) == (own.value, own.ci95)
    assert own.value == pytest.approx(1, abs=0.4)


def test_where_adam_had_to_take_over_sgd_is_searched_on_its_own() -> None:
    slow = replace(PROFILE, rates=(1e-6, 1e-5))
    base = plan_relearning(_parent(), _noise(60, 0).take(FORGET), _unseen(), task=TASK, seed=3, profile=slow)
    assert base.profile.optimizer == "adam"
    plans = plan_thorough(_parent(), base, task=TASK, profile=slow)
    assert [(plan.profile.optimizer, plan.calibrated) for plan in plans[1::3]] == [("sgd", False), ("adam", True)]
    assert [plan.rate for plan in plans[1::3]] == [1e-5, base.rate]


def test_the_cells_at_the_calibrated_rate_are_the_default_profiles_runs() -> None:
    default = run_relearning(_retrained(1), _base(), task=TASK)
    at = next(i for i, plan in enumerate(_plans()) if (plan.rate, plan.profile) == (_base().rate, _base().profile))
    for side in ("forget", "unseen"):
        for ours, theirs in zip(getattr(_retrained_runs()[at], side), getattr(default, side), strict=True):
            assert np.array_equal(ours.losses, theirs.losses)


def test_the_entry_point_gives_every_figure_repeats_to_the_bit_and_changes_no_model() -> None:
    quick = replace(PROFILE, max_steps=12, rates=PROFILE.rates[4:], adam_rates=PROFILE.adam_rates[3:])
    models = [_retrained(2), _parent(), _retrained(1)]
    before, state = [copy.deepcopy(model.state_dict()) for model in models], torch.get_rng_state()
    sets = [_noise(60, 0).take(FORGET), *_unseen()]
    pixels = [samples.images.clone() for samples in sets]
    found = [
        thorough_relearning(
            models[0],
            models[1],
            forget=sets[0],
            unseen=sets[1:],
            task=TASK,
            seed=3,
            retrained=models[2],
            profile=quick,
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    names = [result.name for result in found[0]]
    assert names == ["relearning_thorough.ratio", "relearning_thorough.anamnesis", "relearning_head_delay"]
    assert [result.to_dict()["basis"] for result in found[0]] == ["unseen controls", "retrained", "none"]
    for model, was in zip(models, before, strict=True):
        assert all(torch.equal(value, was[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(samples.images, was) for samples, was in zip(sets, pixels, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    json.dumps([result.to_dict() for result in found[0]], allow_nan=False)


def test_without_forget_samples_or_controls_nothing_applies() -> None:
    empty = _noise(60, 0).take(torch.empty(0, dtype=torch.int64))
    for forget, unseen in ((empty, _unseen()), (_noise(60, 0).take(FORGET), [])):
        found = thorough_relearning(_parent(), _parent(), forget=forget, unseen=unseen, task=TASK, seed=3)
        assert [result.verdict for result in found] == ["not_applicable"] * 3
