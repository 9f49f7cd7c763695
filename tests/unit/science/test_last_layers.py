"""The last k layers: how they are counted in every architecture, and what freezing the others means."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.method_cases import conv_net, net
from workers.architectures import build
from workers.architectures.ensemble import Ensemble
from workers.unlearning.interface import UnlearningError
from workers.unlearning.last_layers import head_and_last_block, last_layers, layers_of, others_frozen, train_mode_for


def _built(architecture: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return build(architecture, options, image_shape=(3, 32, 32), num_classes=10)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def test_a_layer_is_a_module_with_parameters_of_its_own() -> None:
    kinds = [type(layer) for layer in layers_of(net(norm=True, drop=True))]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.Linear, nn.Linear]


@pytest.mark.parametrize(
    ("model", "first"),
    [
        (_built("small_cnn"), "features.8"),
        (_built("small_cnn", norm=False), "features.6"),
        (_built("resnet18"), "layer4.1.conv1"),
        (_built("resnet50"), "layer4.2.conv1"),
        (_built("vgg16_bn"), "features.40"),
        (_built("vgg16_bn", head="imagenet"), "features.40"),
        (_built("small_vit", depth=2), "blocks.1.attend.0"),
        (_built("small_vit", depth=1), "blocks.0.attend.0"),
        (_built("vit_b_16", image_size=32), "encoder.layers.encoder_layer_11.ln_1"),
        (conv_net(norm=True), "0"),
        (net(norm=True), "4"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), "1"),
        (nn.Sequential(nn.Identity(), nn.Sequential(*(_Residual() for _ in range(3)), nn.Linear(4, 2))), "1.2.inner.0"),
        # its last block is its head, so the one before is taken too
        (nn.Sequential(*(_Residual() for _ in range(3))), "1.inner.0"),
    ],
)
def test_left_out_k_reaches_from_the_last_block_on(model: nn.Module, first: str) -> None:
    layers = layers_of(model)
    assert head_and_last_block(model) == len(layers) - layers.index(model.get_submodule(first))


@pytest.mark.parametrize("k", [None, 1, 4])
def test_of_an_ensemble_the_last_layers_are_those_of_each_network(k: int | None) -> None:
    alone, both = last_layers(net(norm=True), k), last_layers(Ensemble([net(norm=True), net(norm=True, seed=4)]), k)
    assert (both.k, both.total) == (alone.k, alone.total)
    assert both.parameters == {f"nets.{i}.{name}" for i in (0, 1) for name in alone.parameters}
    assert both.modules == {f"nets.{i}.{name}" if name else f"nets.{i}" for i in (0, 1) for name in alone.modules}


@pytest.mark.parametrize("k", [5, 100])
def test_a_k_above_the_number_of_layers_is_refused_with_that_number(k: int) -> None:
    with pytest.raises(UnlearningError, match=rf"k = {k}, but the network has 4 layers: choose k in 1\.\.4"):
        last_layers(net(norm=True), k)


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(UnlearningError, match="k = 0"):
        last_layers(net(), 0)


def test_the_last_layers_are_those_registered_last() -> None:
    last = last_layers(net(norm=True, drop=True), 2)
    assert last.parameters == {"5.weight", "5.bias", "7.weight", "7.bias"}
    assert last.modules == {"5", "6", "7"}
    assert (last.k, last.total) == (2, 4)


def test_all_layers_are_the_whole_network() -> None:
    model = net(norm=True, drop=True)
    last = last_layers(model, 4)
    assert last.parameters == {name for name, _ in model.named_parameters()}
    assert last.modules == {name for name, _ in model.named_modules()}


def test_a_parameter_that_a_frozen_layer_holds_too_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert last_layers(model, 1).parameters == {"1.bias"}
    model[1].bias = model[0].bias
    with pytest.raises(UnlearningError, match="share every parameter"):
        last_layers(model, 1)


def test_modules_before_the_last_layers_are_in_eval_mode_whatever_they_were() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 3), nn.Dropout())
    train_mode_for(model.train(), last_layers(model, 1))
    assert [module.training for module in model] == [False, False, False, True, True]


def test_only_the_last_layers_get_a_gradient_and_afterwards_all_can_again() -> None:
    model = net()
    with others_frozen(model, last_layers(model, 2)):
        model(torch.zeros(1, 9, dtype=torch.float64)).sum().backward()
    assert [w.grad is None for w in model.parameters()] == [True, True, False, False, False, False]
    assert all(w.requires_grad for w in model.parameters())
