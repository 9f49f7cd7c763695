"""Masked small gradients: mask and step against the formula, its laws, and which nets it refuses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.catalogue.methods import FinetuneConfig, MsgConfig
from tests.method_cases import around, conv_net, digits, equal, net, splits
from tests.method_formulas import assert_a_sound_run, assert_weights, conv_slopes, layers_of
from workers.pipeline import build_model
from workers.reproducibility import derived_seed, generator_for
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import (
    Surroundings,
    UnlearningError,
    UnlearningResult,
    UnlearningSplits,
    UtilityLostError,
)
from workers.unlearning.msg import msg, smallest


def _config(**changes: Any) -> MsgConfig:
    return MsgConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def _msg(model: nn.Module, given: UnlearningSplits, config: MsgConfig, *, around: Surroundings) -> UnlearningResult:
    """Let what starts anew come from a net with convolutions."""
    return msg(model, given, config, around=replace(around, build_model=lambda seed: conv_net(seed=seed)))


def test_one_step_equals_the_formula() -> None:
    parent, given = conv_net(), splits()
    w = layers_of(parent)
    gap = np.abs(conv_slopes(w, given.retain)[0] - conv_slopes(w, given.forget)[0])
    mask = gap <= np.sort(gap.ravel())[10]
    assert mask.sum() == 11  # 30 % of 36
    fresh = layers_of(conv_net(seed=derived_seed(generator_for(4))))
    w[0] = np.where(mask, fresh[0], w[0])
    slopes = conv_slopes(w, given.retain)
    slopes[0] = slopes[0] * np.where(mask, 1.0, 0.1)
    config = _config(epochs=1, batch_size=64, momentum=0.0, weight_decay=0.0)
    result = _msg(parent, given, config, around=around(4))
    assert_weights(result.model, [a - 0.05 * b for a, b in zip(w, slopes, strict=True)])


def test_with_no_new_values_and_no_damping_it_is_fine_tuning() -> None:
    near = around(4)
    result = msg(conv_net(), splits(), _config(damping=1.0), around=replace(near, build_model=lambda _seed: conv_net()))
    same_order = generator_for(4)
    derived_seed(same_order)
    config = FinetuneConfig(epochs=2, lr=0.05, batch_size=16)
    same = finetune(conv_net(), splits(), config, around=replace(around(), generator=same_order))
    assert equal(result.model, same.model)


def test_a_share_is_met_exactly_though_all_are_equal() -> None:
    assert smallest(torch.zeros(2, 5), 0.3).tolist() == [[True] * 3 + [False] * 2, [False] * 5]


def test_gradients_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UnlearningError, match="not finite"):
        smallest(torch.tensor([0.0, torch.nan]), 0.3)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(_msg, _config(), parents=(conv_net(), conv_net(norm=True)))


def test_a_net_without_convolutions_is_refused() -> None:
    with pytest.raises(UnlearningError, match="no convolution"):
        msg(net(), splits(), _config(), around=around())


def _on_digits(config: MsgConfig) -> UnlearningResult:
    known = digits()
    near = replace(known.around(drop=0.05), build_model=lambda seed: build_model(known.spec, seed))
    return msg(known.parent, known.of_class(3), config, around=near)


def test_a_net_that_knows_digits_forgets_a_class_and_keeps_its_accuracy_with_a_larger_share() -> None:
    result = _on_digits(MsgConfig(lr=0.05, batch_size=32, share=0.6))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.5
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_on_a_small_net_the_default_share_leaves_most_of_a_class_known() -> None:
    result = _on_digits(MsgConfig(lr=0.05, batch_size=32))
    assert max(row["forget_error"] for row in result.history) < 0.5


def test_defaults_too_mild_to_repair_a_small_net_end_at_the_accuracy_floor() -> None:
    with pytest.raises(UtilityLostError, match="no epoch kept selection accuracy"):
        _on_digits(MsgConfig())
