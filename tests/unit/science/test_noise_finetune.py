"""Noise once, then fine-tuning: what is perturbed and by how much, what it equals without noise, what it reads."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from service.catalogue.methods import FinetuneConfig, NoiseFinetuneConfig
from service.catalogue.recipe import Recipe
from tests.method_cases import around, digits, equal, net, splits, with_other_images
from workers.reproducibility import generator_for
from workers.training import train
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import UnlearningResult, UnlearningSplits
from workers.unlearning.noise_finetune import noise_finetune, shrink_and_perturb, tuning_by
from workers.unlearning.weight_noise import add_noise, feature_weights


def _config(**changes: Any) -> NoiseFinetuneConfig:
    return NoiseFinetuneConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def _run(model: nn.Module, given: UnlearningSplits | None = None, *, seed: int = 0, **changes: Any) -> UnlearningResult:
    return noise_finetune(model, given or splits(), _config(**changes), around=around(seed))


def test_the_weights_are_shrunk_and_perturbed_as_in_the_formula_and_nothing_else_is() -> None:
    before, model = net(norm=True), net(norm=True)
    shrink_and_perturb(model, _config(noise=0.7, shrink=0.4), generator_for(5))
    source = generator_for(5)
    for name, found in model.named_parameters():
        theta = before.get_parameter(name).detach().numpy()
        if name in ("1.weight", "4.weight", "6.weight"):
            xi = torch.randn(theta.shape, generator=source, dtype=torch.float64).numpy()
            theta = 0.6 * theta + 0.7 * np.sqrt(np.mean(theta**2)) * xi
        np.testing.assert_allclose(found.detach().numpy(), theta, rtol=1e-12)
    assert all(torch.equal(value, before.get_buffer(name)) for name, value in model.named_buffers())


def test_one_step_after_the_noise_descends_the_cross_entropy_of_the_retain_set() -> None:
    given, generator = splits(), generator_for(0)
    perturbed = net()
    shrink_and_perturb(perturbed, _config(), generator)
    x = given.retain.images.numpy().reshape(len(given.retain), -1) / 127.5 - 1
    w = [each.detach().numpy() for each in perturbed.parameters()]
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    odds = np.exp(h2 @ w[4].T + w[5])
    pull = (odds / odds.sum(1, keepdims=True) - np.eye(3)[given.retain.labels.numpy()]) / len(x)
    back = (pull @ w[4]) * (1 - h2**2)
    first = (back @ w[2]) * (1 - h1**2)
    slopes = [first.T @ x, first.sum(0), back.T @ h1, back.sum(0), pull.T @ h2, pull.sum(0)]
    plain: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    result = _run(net(), epochs=1, batch_size=64, **plain)
    for found, theta, slope in zip(result.model.parameters(), w, slopes, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), theta - 0.05 * slope, rtol=1e-6, atol=1e-9)


def test_without_noise_it_is_fine_tuning() -> None:
    plain: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    same = finetune(
        net(norm=True), splits(), FinetuneConfig(epochs=2, lr=0.05, batch_size=16, **plain), around=around(4)
    )
    result = _run(net(norm=True), seed=4, noise=0.0, shrink=0.0, schedule="constant", **plain)
    assert equal(result.model, same.model)


def test_the_rate_follows_the_schedule_over_all_epochs() -> None:
    given, fresh = splits(), net(norm=True)
    result = _run(net(norm=True), given, noise=0.0, shrink=0.0, weight_decay=5e-4, schedule="one_cycle")
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, schedule="one_cycle")
    train(fresh, given.retain, recipe, task=around().task, generator=generator_for(0))
    assert equal(result.model, fresh)


def test_noise_has_the_spread_asked_for_in_every_tensor() -> None:
    weights = [torch.full((400, 400), scale, dtype=torch.float64) for scale in (1e-3, 7.0)]
    before = [w.clone() for w in weights]
    add_noise(weights, 0.3, generator_for(0))
    for w, w_0 in zip(weights, before, strict=True):
        assert float((w - w_0).std() / w_0[0, 0]) == pytest.approx(0.3, rel=0.01)


def test_biases_and_norm_layers_are_no_feature_weights() -> None:
    model = nn.ModuleList(
        [nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 3)), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.Linear(2, 2)]
    )
    names = {id(w): name for name, w in model.named_parameters()}
    assert [names[id(w)] for w in feature_weights(model)] == ["0.weight", "4.weight"]


def test_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given = splits()
    first = _run(net(norm=True), given)
    second = _run(net(norm=True), with_other_images(given, given.forget_index))
    assert equal(first.model, second.model)


def test_the_parent_stays_the_seed_repeats_and_another_differs() -> None:
    parent = net(norm=True)
    before = copy.deepcopy(parent)
    first, again, other = (_run(parent, seed=seed).model for seed in (1, 1, 2))
    assert equal(parent, before)
    assert equal(first, again)
    assert not equal(first, other)
    assert not first.training


def test_options_left_null_follow_the_recipe_and_those_named_win() -> None:
    recipe = Recipe(optimizer="adamw", lr=0.02, momentum=0.7, batch_size=32)
    filled = tuning_by(NoiseFinetuneConfig(), recipe)
    assert (filled.optimizer, filled.lr, filled.momentum, filled.batch_size) == ("adamw", 0.02, 0.7, 32)
    named = tuning_by(NoiseFinetuneConfig(optimizer="sgd", lr=0.5, momentum=0.0, batch_size=7), recipe)
    assert (named.optimizer, named.lr, named.momentum, named.batch_size) == ("sgd", 0.5, 0.0, 7)


STRONG = NoiseFinetuneConfig(noise=0.5, shrink=0.5, epochs=5)
"""By the defaults, which suit a larger set, a third of the class is still known."""


def test_a_net_that_knows_digits_forgets_and_keeps_its_accuracy() -> None:
    known = digits()
    result = noise_finetune(known.parent, known.of_class(3), STRONG, around=known.around(drop=0.1))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] == 1
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.1


@pytest.mark.parametrize(
    "option", [{"noise": -0.1}, {"shrink": 1.1}, {"epochs": 0}, {"lr": 0}, {"batch_size": 1}, {"schedule": "linear"}]
)
def test_options_out_of_bounds_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NoiseFinetuneConfig(**option)
