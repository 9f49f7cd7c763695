"""Convolution transpose: what is transposed, the step that follows, what it reads and which nets it refuses."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.catalogue.methods import ConvTransposeConfig, FinetuneConfig
from tests.method_cases import around, conv_net, digits, equal, net, splits, with_other_images
from tests.method_formulas import assert_a_sound_run, assert_weights, conv_slopes, layers_of
from workers.unlearning.conv_transpose import conv_transpose, transpose_kernels
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import UnlearningError, UtilityLostError


def _config(**changes: Any) -> ConvTransposeConfig:
    return ConvTransposeConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def test_every_kernel_is_transposed_entry_by_entry_and_nothing_else_changes() -> None:
    before, model = conv_net(norm=True), conv_net(norm=True)
    transpose_kernels(model)
    for name, found in model.state_dict().items():
        wanted = before.state_dict()[name].clone()
        if wanted.ndim == 4:
            for o, i, h, w in np.ndindex(*wanted.shape):
                wanted[o, i, h, w] = before.state_dict()[name][o, i, w, h]
            assert not torch.equal(found, before.state_dict()[name])
        assert torch.equal(found, wanted)


def test_twice_is_the_original() -> None:
    model = conv_net()
    transpose_kernels(model)
    transpose_kernels(model)
    assert equal(model, conv_net())


def test_a_transposed_net_answers_a_transposed_image_by_the_transposed_map() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    turned = copy.deepcopy(conv)
    transpose_kernels(turned)
    image = torch.rand(1, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(turned(image.transpose(2, 3)), conv(image).transpose(2, 3))


def test_a_kernel_that_two_layers_share_is_transposed_once() -> None:
    first, second = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    second.weight = first.weight
    before = first.weight.detach().clone()
    transpose_kernels(nn.Sequential(first, second))
    assert torch.equal(first.weight, before.transpose(2, 3))


def test_kernels_that_are_not_square_stay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 1)), nn.Conv2d(2, 2, 3))
    before = copy.deepcopy(model)
    transpose_kernels(model)
    assert torch.equal(model.get_parameter("0.weight"), before.get_parameter("0.weight"))
    assert not torch.equal(model.get_parameter("1.weight"), before.get_parameter("1.weight"))


def test_one_step_equals_the_formula() -> None:
    given, parent = splits(), conv_net()
    w = layers_of(parent)
    w[0] = w[0].swapaxes(2, 3)
    slopes = conv_slopes(w, given.retain)
    config = _config(epochs=1, batch_size=64, momentum=0.0, weight_decay=0.0)
    result = conv_transpose(parent, given, config, around=around())
    assert_weights(result.model, [a - 0.05 * b for a, b in zip(w, slopes, strict=True)])


def test_it_is_fine_tuning_of_the_transposed_net() -> None:
    turned = conv_net(norm=True)
    transpose_kernels(turned)
    same = finetune(turned, splits(), FinetuneConfig(epochs=2, lr=0.05, batch_size=16), around=around(4))
    result = conv_transpose(conv_net(norm=True), splits(), _config(), around=around(4))
    assert equal(result.model, same.model)


def test_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given, parent = splits(), conv_net(norm=True)
    first = conv_transpose(parent, given, _config(), around=around())
    second = conv_transpose(parent, with_other_images(given, given.forget_index), _config(), around=around())
    assert equal(first.model, second.model)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(conv_transpose, _config(), parents=(conv_net(), conv_net(norm=True)))


@pytest.mark.parametrize("model", [net(), nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(18, 3)).double()])
def test_a_net_without_square_kernels_is_refused(model: nn.Module) -> None:
    with pytest.raises(UnlearningError, match="no convolution with a square kernel"):
        conv_transpose(model, splits(), _config(), around=around())


def test_a_net_that_knows_digits_forgets_a_class_and_keeps_its_accuracy() -> None:
    known = digits()
    config = ConvTransposeConfig(lr=0.05, batch_size=32)
    result = conv_transpose(known.parent, known.of_class(3), config, around=known.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.9
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_defaults_too_mild_to_repair_a_small_net_end_at_the_accuracy_floor() -> None:
    known = digits()
    with pytest.raises(UtilityLostError, match="no epoch kept selection accuracy"):
        conv_transpose(known.parent, known.of_class(3), ConvTransposeConfig(), around=known.around(drop=0.05))
