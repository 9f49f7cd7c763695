"""What drawn images tell is counted as it says, by a classifier that saw neither what it judges nor the forgotten."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.science.generation_world import CLASSES, images_of, network
from workers.evaluation.generation import recogniser
from workers.evaluation.generation.drawn import Drawn, SamplingPlan, SamplingProfile, draw, plan_sampling
from workers.evaluation.generation.figures import frechet, generation_accuracy, generation_drop
from workers.evaluation.generation.frechet import frechet_distance, moments
from workers.evaluation.generation.losses import loss_rise, membership
from workers.evaluation.generation.recogniser import disclosed, recogniser_for
from workers.evaluation.intervals import wilson
from workers.evaluation.unseen_controls import ControlPairs

SEES_ALL: dict[str, Any] = {"per_class": {"0": 1.0, "1": 1.0, "2": 1.0}}


def _plan(**changes: int) -> SamplingPlan:
    profile = SamplingProfile(**{"gone": 4, "retained": 6, "fewest": 1, "steps": 1, **changes})
    return plan_sampling(torch.tensor([0, 1]), torch.tensor([2]), seed=0, profile=profile)


def _drawn(right: list[int], seed: int = 0) -> Drawn:
    features = np.random.default_rng(seed).normal(size=(len(right), 3))
    return Drawn(
        right=torch.tensor(right, dtype=torch.bool),
        features=features,
        images=images_of(len(right), seed).images,
        shown={},
    )


def test_forgotten_classes_are_drawn_first_and_retained_ones_in_turn() -> None:
    plan = _plan()
    assert plan.labels.tolist() == [2, 2, 2, 2, 0, 1, 0, 1, 0, 1]
    assert plan.labels[plan.forgotten].tolist() == [2] * 4


def test_every_class_gets_its_fewest_images() -> None:
    plan = plan_sampling(torch.arange(40), torch.tensor([]).long(), seed=0, profile=SamplingProfile(retained=50))
    assert torch.bincount(plan.labels).tolist() == [10] * 40
    assert plan.gone == 0


def test_the_share_recognised_is_counted_by_side_with_wilsons_interval() -> None:
    found = {r.split: r for r in generation_accuracy(_drawn([1, 0, 0, 0, 1, 1, 1, 1, 0, 1]), _plan(), SEES_ALL)}
    assert found["forget"].value == 0.25
    assert found["forget"].ci95 == wilson(1, 4)
    assert found["retain"].value == pytest.approx(5 / 6)
    assert (found["retain"].extra or {})["per_class"] == {"0": pytest.approx(2 / 3), "1": 1.0}


def test_without_a_class_that_is_gone_there_is_no_figure_for_one() -> None:
    plan = plan_sampling(torch.tensor([0, 1]), torch.tensor([]).long(), seed=0)
    drawn = _drawn([1] * len(plan.labels))
    assert [r.split for r in generation_accuracy(drawn, plan, SEES_ALL)] == ["retain"]


def test_what_a_classifier_cannot_see_it_cannot_deny() -> None:
    blind = {"per_class": {**SEES_ALL["per_class"], "2": 0.3}}
    found = {r.split: r for r in generation_accuracy(_drawn([0] * 10), _plan(), blind)}
    assert found["forget"].verdict == "inconclusive"
    assert found["retain"].verdict == "measured"


@pytest.mark.parametrize(("seen", "verdict"), [(0.7, "measured"), (0.5, "inconclusive")])
def test_nor_can_it_deny_that_something_was_lost(seen: float, verdict: str) -> None:
    classifier = {"per_class": {"0": 1.0, "1": seen, "2": 0.0}}
    found = generation_drop(_drawn([0] * 10), _drawn([0] * 10), _plan(), classifier)
    assert (found.value, found.verdict) == (0, verdict)
    assert ((found.extra or {}).get("reason") is None) == (verdict == "measured")


def test_a_drop_pairs_the_images_that_began_alike() -> None:
    before, after = _drawn([0] * 4 + [1, 1, 1, 1, 1, 0]), _drawn([0] * 4 + [1, 1, 0, 0, 1, 0])
    found = generation_drop(before, after, _plan(), SEES_ALL)
    assert found.value == pytest.approx(2 / 6)
    assert generation_drop(before, before, _plan(), SEES_ALL).value == 0


def test_the_distance_is_of_retained_classes_alone() -> None:
    drawn, plan = _drawn([1] * 10), _plan()
    real = moments(np.random.default_rng(5).normal(size=(50, 3)))
    found = frechet(drawn, plan, real, unseen=0.5)
    assert found.value == pytest.approx(frechet_distance(moments(drawn.features[4:]), real))
    moved = replace(drawn, features=np.concatenate([drawn.features[:4] + 100, drawn.features[4:]]))
    assert frechet(moved, plan, real, unseen=0.5).value == found.value


def test_a_network_that_draws_alike_is_judged_alike_and_each_image_begins_with_its_own_noise() -> None:
    plan, seer = _plan(retained=300), recogniser_for(images_of(60, 2), num_classes=CLASSES)
    assert seer is not None
    told: list[int] = []
    ours, again = (
        draw(network(seed), plan, seer, shape=(1, 8, 8), done=lambda n, _: told.append(n)) for seed in (0, 0)
    )
    assert torch.equal(ours.right, again.right)
    assert np.array_equal(ours.features, again.features)
    assert told[:2] == [250, 304], "in batches"
    assert len(np.unique(ours.features.round(12), axis=0)) > 290
    assert {label: len(x) for label, x in ours.shown.items()} == {0: 8, 1: 8, 2: 4}


def test_the_classifier_recognises_images_that_it_never_saw() -> None:
    seer = recogniser_for(images_of(60, 2), num_classes=CLASSES)
    assert seer is not None
    told = disclosed(seer, images_of(45, 9))
    assert told["accuracy"] >= 0.95
    assert told["trained_on"] == 60
    assert told["n"] == 45


def test_it_is_trained_once_for_equal_pools_and_anew_when_a_sample_of_them_is_erased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[int] = []
    true = recogniser._trained

    def counting(samples: Any, num_classes: int) -> Any:
        trained.append(len(samples))
        return true(samples, num_classes)

    monkeypatch.setattr(recogniser, "_trained", counting)
    pool = images_of(30, 7)
    first = recogniser_for(pool, num_classes=CLASSES)
    assert recogniser_for(images_of(30, 7), num_classes=CLASSES) is first
    recogniser_for(pool.take(torch.arange(1, 30)), num_classes=CLASSES)
    assert trained == [30, 29]
    assert len(recogniser._AT_HAND) == 1, "nothing stays that was trained on the erased sample"
    assert recogniser_for(pool.take(torch.arange(0)), num_classes=CLASSES) is None


def test_the_rise_of_the_loss_is_a_share_of_the_parents() -> None:
    before, after = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5])
    assert loss_rise(before, after).value == pytest.approx(0.25)
    assert loss_rise(before, before).value == 0
    assert loss_rise(before[:0], after[:0]).verdict == "not_applicable"


def _pairs(n: int) -> ControlPairs:
    where: Tensor = torch.arange(n)
    return ControlPairs(forget=where, audit=where)


def test_lower_losses_are_told_for_members_and_each_part_of_the_timesteps_alone() -> None:
    rng = np.random.default_rng(0)
    losses = {"forget": rng.random((40, 3)), "audit": rng.random((40, 3))}
    losses["forget"][:, 1] -= 5
    found = membership(losses, _pairs(40))
    assert found.value == 1.0
    parts = (found.extra or {})["by_part_of_timesteps"]
    assert parts[1] == 1.0
    assert 0.3 < parts[0] < 0.7
