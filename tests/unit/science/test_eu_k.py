"""EU-k: what starts anew, what stays, what its steps are, and that with all layers it is training from there."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from service.catalogue.methods import EuKConfig, RetrainConfig
from service.catalogue.recipe import Recipe
from tests.method_cases import DoubleTask, around, conv_net, digits, equal, net, splits, with_other_images
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.pipeline import build_model
from workers.reproducibility import derived_seed, generator_for
from workers.training import train
from workers.unlearning.eu_k import eu_k, recipe_for
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.retrain import retrain


def _config(**changes: Any) -> EuKConfig:
    return EuKConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def _like(parent: nn.Module, seed: int) -> nn.Module:
    """Return a fresh net of the parent's architecture whose buffers differ from the parent's."""
    norm = any("running_mean" in name for name, _ in parent.named_buffers())
    convolves = any(isinstance(module, nn.Conv2d) for module in parent.modules())
    return conv_net(norm=norm, seed=seed) if convolves else net(norm=norm, seed=seed)


def _eu_k(parent: nn.Module, given: UnlearningSplits, config: EuKConfig, *, around: Surroundings) -> UnlearningResult:
    """Let what starts anew come from a net like the parent."""
    return eu_k(parent, given, config, around=replace(around, build_model=lambda seed: _like(parent, seed)))


def test_one_step_equals_the_formula() -> None:
    given, parent = splits(), net()
    fresh = net(seed=derived_seed(generator_for(4)))
    w = layers_of(parent)[:4] + layers_of(fresh)[4:]
    slopes = backward(w, inputs_of(given.retain), cross_entropy_slope(w, given.retain) / len(given.retain))
    config = _config(k=1, epochs=1, batch_size=64, momentum=0.0, weight_decay=0.1, schedule="constant")
    result = eu_k(parent, given, config, around=around(4))
    moved = [theta - 0.05 * (g + 0.1 * theta) for theta, g in zip(w[4:], slopes[4:], strict=True)]
    assert_weights(result.model, [*w[:4], *moved])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    ("parent", "frozen"), [(net(norm=True), ("1.", "2.", "4.")), (conv_net(norm=True), ("0", "1"))]
)
def test_frozen_layers_and_their_buffers_stay_bit_for_bit(
    parent: nn.Module, frozen: tuple[str, ...], optimizer: str
) -> None:
    config = _config(k=1, optimizer=optimizer, weight_decay=0.1, momentum=0.9)
    found = _eu_k(parent, splits(), config, around=around()).model.state_dict()
    for name, value in parent.state_dict().items():
        assert torch.equal(found[name], value) is name.startswith(frozen)


@pytest.mark.parametrize("norm", [False, True])
def test_with_all_layers_it_is_training_from_that_initialisation(*, norm: bool) -> None:
    given, generator = splits(), generator_for(4)
    result = _eu_k(net(norm=norm), given, _config(k=4 if norm else 3), around=around(4))
    fresh = net(norm=norm, seed=derived_seed(generator))
    history = train(
        fresh, given.retain, Recipe(epochs=2, lr=0.05, batch_size=16), task=DoubleTask(), generator=generator
    )
    assert equal(result.model, fresh)
    assert tuple(row["objectives"]["loss"] for row in result.history[1:]) == history.epoch_losses


def test_with_all_layers_and_no_option_it_is_retraining() -> None:
    """The buffers of the parent must not come through either."""
    near = replace(around(4, epochs=3, batch_size=16), build_model=lambda seed: net(norm=True, seed=seed))
    parent = net(norm=True, seed=8)
    parent.get_buffer("2.running_mean").fill_(5.0)
    found = eu_k(parent, splits(), EuKConfig(k=4), around=near)
    same = retrain(parent, splits(), RetrainConfig(), around=replace(near, generator=generator_for(4)))
    assert equal(found.model, same.model)


def test_options_left_null_follow_the_recipe_and_named_ones_replace_it() -> None:
    recipe = Recipe(epochs=7, lr=0.3, optimizer="adamw", momentum=0.5, weight_decay=0.2, schedule="cosine", seed=3)
    assert recipe_for(EuKConfig(k=2, seed=9), recipe) == recipe
    named = EuKConfig(epochs=2, weight_decay=0.0, schedule="constant")
    changed = recipe.model_copy(update={"epochs": 2, "weight_decay": 0.0, "schedule": "constant"})
    assert recipe_for(named, recipe) == changed


def test_the_parents_last_layers_leave_no_trace() -> None:
    other = net()
    with torch.no_grad():
        other.get_parameter("5.weight").mul_(-3)
    first = eu_k(net(), splits(), _config(k=1), around=around())
    assert equal(first.model, eu_k(other, splits(), _config(k=1), around=around()).model)


def test_left_out_k_starts_head_and_last_block_anew_and_the_selection_says_so() -> None:
    alone = eu_k(net(), splits(), _config(), around=around(4))
    assert equal(alone.model, eu_k(net(), splits(), _config(k=2), around=around(4)).model)
    assert (alone.selection["layers_trained"], alone.selection["layers"]) == (2, 3)


def test_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given, parent = splits(), net(norm=True)
    first = _eu_k(parent, given, _config(k=3), around=around())
    second = _eu_k(parent, with_other_images(given, given.forget_index), _config(k=3), around=around())
    assert equal(first.model, second.model)


@pytest.mark.parametrize("k", [None, 1, 3])
def test_a_run_is_sound(k: int | None) -> None:
    assert_a_sound_run(_eu_k, _config(k=k))


def test_a_k_above_the_number_of_layers_is_refused() -> None:
    with pytest.raises(UnlearningError, match="the network has 3 layers"):
        eu_k(net(), splits(), _config(k=4), around=around())


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": 1.5}, {"lr": 0}, {"epochs": 0}, {"batch_size": 1}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EuKConfig.model_validate(wrong)


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy() -> None:
    known = digits()
    near = replace(known.around(drop=0.05), build_model=lambda seed: build_model(known.spec, seed))
    result = eu_k(known.parent, known.of_class(3), EuKConfig(), around=near)
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.9
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05
