"""CF-k: what stays, what its steps are, and that with all layers it is fine-tuning."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from service.catalogue.methods import CfKConfig, FinetuneConfig
from tests.method_cases import around, conv_net, digits, equal, net, splits, with_other_images
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.unlearning.cf_k import cf_k
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import UnlearningError, UnlearningResult


def _config(**changes: Any) -> CfKConfig:
    return CfKConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def test_one_step_equals_the_formula() -> None:
    given, parent = splits(), net()
    w = layers_of(parent)
    slopes = backward(w, inputs_of(given.retain), cross_entropy_slope(w, given.retain) / len(given.retain))
    config = _config(k=2, epochs=1, batch_size=64, momentum=0.0, weight_decay=0.1)
    result = cf_k(parent, given, config, around=around())
    moved = [theta - 0.05 * (g + 0.1 * theta) for theta, g in zip(w[2:], slopes[2:], strict=True)]
    assert_weights(result.model, [*w[:2], *moved])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("parent", "frozen"),
    [(net(norm=True, drop=True), ("1.", "2.", "5.")), (conv_net(norm=True), ("0.", "1."))],
)
def test_frozen_layers_and_their_buffers_stay_bit_for_bit(
    parent: nn.Module, frozen: tuple[str, ...], optimizer: str
) -> None:
    config = _config(k=1, optimizer=optimizer, weight_decay=0.1, momentum=0.9)
    found = cf_k(parent, splits(), config, around=around()).model.state_dict()
    for name, value in parent.state_dict().items():
        assert torch.equal(found[name], value) is name.startswith(frozen)


def test_buffers_of_norm_layers_that_train_move() -> None:
    parent = net(norm=True)
    result = cf_k(parent, splits(), _config(k=3), around=around())
    assert not torch.equal(result.model.get_buffer("2.running_mean"), parent.get_buffer("2.running_mean"))


@pytest.mark.parametrize(("parent", "layers"), [(net(), 3), (net(norm=True), 4), (conv_net(norm=True), 3)])
def test_with_all_layers_it_is_fine_tuning(parent: nn.Module, layers: int) -> None:
    result = cf_k(parent, splits(), _config(k=layers), around=around(4))
    same = finetune(parent, splits(), FinetuneConfig(epochs=2, lr=0.05, batch_size=16), around=around(4))
    assert equal(result.model, same.model)
    assert result.history == same.history


def test_left_out_k_trains_head_and_last_block_and_the_selection_says_so() -> None:
    alone = cf_k(net(), splits(), _config(), around=around(4))
    assert equal(alone.model, cf_k(net(), splits(), _config(k=2), around=around(4)).model)
    assert (alone.selection["layers_trained"], alone.selection["layers"]) == (2, 3)


def test_all_parameters_of_the_result_can_be_trained_again() -> None:
    assert all(w.requires_grad for w in cf_k(net(), splits(), _config(k=1), around=around()).model.parameters())


def test_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given, parent = splits(), net(norm=True)
    first = cf_k(parent, given, _config(k=3), around=around())
    second = cf_k(parent, with_other_images(given, given.forget_index), _config(k=3), around=around())
    assert equal(first.model, second.model)


@pytest.mark.parametrize("k", [None, 1, 3])
def test_a_run_is_sound(k: int | None) -> None:
    assert_a_sound_run(cf_k, _config(k=k))


def test_a_k_above_the_number_of_layers_is_refused() -> None:
    with pytest.raises(UnlearningError, match="the network has 3 layers"):
        cf_k(net(), splits(), _config(k=4), around=around())


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": -1}, {"k": 1.5}, {"lr": 0}, {"epochs": 0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CfKConfig.model_validate(wrong)


def _of_a_class(config: CfKConfig) -> UnlearningResult:
    known = digits()
    return cf_k(known.parent, known.of_class(3), config, around=known.around(drop=0.05))


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy_at_a_higher_rate() -> None:
    result = _of_a_class(CfKConfig(lr=0.3, batch_size=32, epochs=3))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.9
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_at_the_default_rate_a_small_net_goes_on_knowing_the_class() -> None:
    assert max(row["forget_error"] for row in _of_a_class(CfKConfig()).history) < 0.1
