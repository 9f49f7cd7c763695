"""Each method that has a meaning for a diffusion model runs on one as on a classifier, and the others refuse."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from service.catalogue.architectures.options import DdpmOptions
from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.methods import SsdConfig
from service.catalogue.recipe import Recipe
from service.catalogue.tasks import Task
from tests.diffusion_cases import RECIPE, SHAPE, around, net, samples, splits
from workers import pipeline
from workers.architectures.ddpm import Ddpm, ddpm_unet
from workers.diffusion import Diffusion
from workers.pipeline import ModelSpec, unlearn, validate_parameters
from workers.preparing import prepare
from workers.reproducibility import deterministic, generator_for
from workers.training import train
from workers.unlearning.dampening import importances
from workers.unlearning.importance import diagonal_importance
from workers.unlearning.interface import UnlearningError, UnlearningResult, UnlearningSplits

SPEC = ModelSpec(architecture="ddpm_unet_small", image_shape=SHAPE, num_classes=3, recipe=RECIPE)
QUICK: dict[str, dict[str, Any]] = {
    "retrain": {},
    "finetune": {"epochs": 1, "batch_size": 8},
    "neggrad_plus": {"epochs": 1, "tail_epochs": 1},
    "random_label": {"epochs": 1, "tail_epochs": 1},
    "salun": {"epochs": 1, "tail_epochs": 1},
    "ssd": {"shares": [0.01]},
    "scrub": {"epochs": 2, "msteps": 1},
    "ieu": {"epochs": 1, "tail_epochs": 1},
    "noise_finetune": {"epochs": 1},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the tests' small network whenever one is built."""
    monkeypatch.setattr(pipeline, "build_model", lambda _spec, seed=None: net(seed or 0))


@cache
def _parent() -> Ddpm:
    parent = net()
    recipe = RECIPE.model_copy(update={"epochs": 60, "lr": 5e-3, "schedule": "one_cycle"})
    train(parent, samples(), recipe, task=Diffusion(), generator=generator_for(0))
    return parent


def _unlearned(method: str, config: dict[str, Any], *, seed: int = 3, recipe: Recipe = RECIPE) -> UnlearningResult:
    spec = replace(SPEC, recipe=recipe)
    with deterministic(seed):
        return unlearn(
            spec,
            _parent(),
            splits(),
            CATALOGUE[method].config.model_validate(config),
            method=method,
            seed=seed,
            max_accuracy_drop=100.0,
        )


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_what_runs_here_is_what_the_catalogue_says() -> None:
    assert {name for name, spec in CATALOGUE.items() if Task.GENERATION in spec.tasks} == set(QUICK)


@pytest.mark.parametrize("method", QUICK)
def test_a_method_moves_net_and_average_repeats_bit_for_bit_and_leaves_the_parent(method: str) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    before = copy.deepcopy(_parent().state_dict())
    first, second = (_unlearned(method, QUICK[method], recipe=recipe).model for _ in range(2))
    assert _same(first.state_dict(), second.state_dict())
    assert _same(_parent().state_dict(), before)
    assert isinstance(first, Ddpm)
    assert not first.training
    assert int(first.ema_updates) >= 1
    for part in ("net.", "ema."):
        moved = [name for name, value in first.state_dict().items() if not torch.equal(value, before[name])]
        assert any(name.startswith(part) for name in moved), f"{method} left all of {part} as it was"


def test_both_importances_stand_on_the_draws_that_a_prepared_one_was_made_on_whatever_the_runs_seed() -> None:
    task, cut, config = pipeline.task_for(SPEC, RECIPE.seed), splits(), SsdConfig()
    parent = task.started_from(_parent())
    (made,) = prepare(_parent(), cut.train, ["importance_loss"], task=task)
    assert RECIPE.seed != 4
    for prepared in ({}, {made.name: made.tensors}):
        run = replace(around(pipeline.task_for(SPEC, 4)), prepared=prepared)
        f_f, f_d, told = importances(parent, cut, config, run, "loss")
        assert told["prepared"] == bool(prepared)
        for found, samples_of in ((f_f, cut.forget), (f_d, cut.train)):
            wanted = diagonal_importance(parent, samples_of, task)
            largest = max(float(each.max()) for each in wanted.values())
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-9 * largest)


@pytest.mark.parametrize("method", sorted(CATALOGUE.keys() - QUICK))
def test_a_method_without_meaning_for_it_refuses_with_the_reason(method: str) -> None:
    with pytest.raises(UnlearningError, match=f"{method} has no meaning for generation: it"):
        _unlearned(method, {})


def _unlearned_without_class(method: str, forget: Tensor) -> UnlearningResult:
    parent = net(class_condition=False)
    train(parent, samples(), RECIPE.model_copy(update={"epochs": 1}), task=Diffusion(), generator=generator_for(0))
    config = CATALOGUE[method].config.model_validate(QUICK[method])
    with deterministic(0):
        return unlearn(SPEC, parent, splits(forget), config, method=method, seed=0, max_accuracy_drop=100.0)


@pytest.mark.parametrize("method", ["random_label", "salun"])
def test_no_other_class_is_taught_to_a_net_that_is_told_none(method: str) -> None:
    with pytest.raises(UnlearningError, match=f"{method}: it .* told no class"):
        _unlearned_without_class(method, torch.arange(4))


@pytest.mark.parametrize("method", ["random_label", "salun"])
def test_where_there_is_one_class_no_other_is_taught(method: str) -> None:
    one, train_set = replace(SPEC, num_classes=1), samples()
    same = replace(train_set, labels=torch.zeros_like(train_set.labels))
    cut = UnlearningSplits(train=same, forget_index=torch.arange(4), selection=same)
    config = CATALOGUE[method].config.model_validate(QUICK[method])
    with pytest.raises(UnlearningError, match=f"{method}: it .* has no other"):
        unlearn(one, net(), cut, config, method=method, seed=0)


@pytest.mark.parametrize("method", sorted(QUICK))
def test_a_net_that_is_told_no_class_forgets_no_class_as_a_whole(method: str) -> None:
    with pytest.raises(UnlearningError, match="told no class"):
        _unlearned_without_class(method, torch.arange(0, 24, 3))


@pytest.mark.parametrize("method", ["finetune", "neggrad_plus", "scrub"])
def test_a_net_that_is_told_no_class_forgets_samples(method: str) -> None:
    found = _unlearned_without_class(method, torch.arange(4)).model
    assert isinstance(found, Ddpm)
    assert int(found.ema_updates) >= 1


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("ieu", {"alpha": 0.5, "epochs": 6, "tail_epochs": 6, "lr": 3e-3, "forget_batch_size": 8}),
        ("salun", {"epochs": 10, "tail_epochs": 4, "lr": 3e-3, "saliency": 0.8}),
    ],
)
def test_a_trained_net_forgets_a_class_and_keeps_the_others(method: str, config: dict[str, Any]) -> None:
    task, cut = Diffusion(), splits()
    before, after = _parent(), _unlearned(method, config).model
    lost, kept = (
        float(task.measured(after, each).losses.mean() / task.measured(before, each).losses.mean())
        for each in (cut.forget, cut.retain)
    )
    assert lost > 1.3
    assert kept < 1.15


def test_weights_without_an_average_are_refused_in_one_sentence() -> None:
    tensors = {name: value for name, value in net().state_dict().items() if name.startswith("net.")}
    (fault,) = validate_parameters(SPEC, tensors)
    assert "moving average" in fault
    assert "'ema_updates'" in fault
    assert "copy" in fault


def test_an_average_that_was_never_taken_or_lacks_a_tensor_is_refused() -> None:
    tensors = dict(_parent().state_dict())
    assert validate_parameters(SPEC, tensors) == []
    (fault,) = validate_parameters(SPEC, {**tensors, "ema_updates": torch.zeros((), dtype=torch.int64)})
    assert "never taken" in fault
    faults = validate_parameters(SPEC, {**tensors, "ema_updates": torch.tensor(float("nan"))})
    assert faults == [
        "'ema_updates' has dtype torch.float32, expected torch.int64",
        "'ema_updates' holds values that are not finite",
    ]
    lost = next(name for name in tensors if name.startswith("ema."))
    del tensors[lost]
    assert validate_parameters(SPEC, tensors) == [f"missing tensor {lost!r}"]


def test_weights_for_other_conditions_are_refused_with_what_that_means() -> None:
    with_four = ddpm_unet(DdpmOptions(width=8, blocks=1, width_factors=(1,), attention_levels=(0,)), SHAPE, 4)
    found = validate_parameters(SPEC, with_four.state_dict())
    assert any(fault.startswith("the weights are for 4 classes to draw") for fault in found)
    told_none = net(class_condition=False).state_dict()
    assert any(fault.startswith("the weights are told no class") for fault in validate_parameters(SPEC, told_none))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "build_model", lambda _spec: net(class_condition=False))
        (fault,) = validate_parameters(SPEC, told_none)
        told = validate_parameters(SPEC, _parent().state_dict())
    assert "never taken" in fault
    assert told[0].startswith("the weights are told a class to draw")
