"""l1-sparse: its steps against the formula in float64, what it equals without the penalty, what the penalty does."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from service.catalogue.methods import FinetuneConfig, L1SparseConfig
from tests.method_cases import around, digits, equal, net, splits, with_other_images
from tests.method_formulas import (
    Layers,
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropies,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.samples import LabelledSet
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import UtilityLostError
from workers.unlearning.l1_sparse import l1_sparse


def _config(**changes: Any) -> L1SparseConfig:
    return L1SparseConfig(**{"epochs": 2, "lr": 0.05, "batch_size": 16, **changes})


def _stepped(w: Layers, retain: LabelledSet, penalty: float) -> Layers:
    slopes = backward(w, inputs_of(retain), cross_entropy_slope(w, retain) / len(retain))
    return [theta - 0.05 * (slope + penalty * np.sign(theta)) for theta, slope in zip(w, slopes, strict=True)]


def _size(model: nn.Module) -> float:
    return sum(float(w.detach().abs().sum()) for w in model.parameters())


def _share_near_zero(model: nn.Module) -> float:
    return float((torch.cat([w.detach().flatten() for w in model.parameters()]).abs() < 1e-3).double().mean())


def test_the_first_step_takes_the_whole_penalty() -> None:
    given, w = splits(), layers_of(net())
    plain: dict[str, Any] = {"batch_size": 64, "momentum": 0.0, "weight_decay": 0.0}
    result = l1_sparse(net(), given, _config(epochs=1, alpha=0.3, **plain), around=around())
    expected = _stepped(w, given.retain, 0.3)
    assert_weights(result.model, expected)
    told = result.history[1]["objectives"]
    assert told["loss"] == pytest.approx(cross_entropies(w, given.retain).mean(), rel=1e-6)
    assert told["l1_norm"] == pytest.approx(sum(np.abs(theta).sum() for theta in expected), rel=1e-6)


def test_the_penalty_falls_linearly_by_the_step_and_never_quite_to_zero() -> None:
    given, w = splits(), layers_of(net())
    plain: dict[str, Any] = {"batch_size": 64, "momentum": 0.0, "weight_decay": 0.0}
    result = l1_sparse(net(), given, _config(epochs=4, alpha=0.04, **plain), around=around())
    for penalty in (0.04, 0.03, 0.02, 0.01):
        w = _stepped(w, given.retain, penalty)
    assert_weights(result.model, w)


@pytest.mark.parametrize("norm", [False, True])
def test_without_the_penalty_it_is_fine_tuning_bit_for_bit(*, norm: bool) -> None:
    parent = net(norm=norm)
    same = finetune(parent, splits(), FinetuneConfig(epochs=2, lr=0.05, batch_size=16), around=around(4))
    result = l1_sparse(parent, splits(), _config(alpha=0.0), around=around(4))
    assert equal(result.model, same.model)
    assert not equal(result.model, l1_sparse(parent, splits(), _config(), around=around(4)).model)


def test_a_frozen_weight_neither_moves_nor_counts() -> None:
    parent = net()
    frozen = parent.get_parameter("1.weight")
    frozen.requires_grad = False
    result = l1_sparse(parent, splits(), _config(alpha=0.1), around=around())
    assert torch.equal(result.model.get_parameter("1.weight"), frozen)
    counted = _size(result.model) - float(frozen.abs().sum())
    assert result.history[-1]["objectives"]["l1_norm"] == pytest.approx(counted, rel=1e-12)


def test_the_stronger_the_penalty_the_sparser_the_net() -> None:
    known = digits()
    # short runs end while weights still swing about 0 by as much as the penalty pulls
    plans = [_config(alpha=alpha, epochs=8, batch_size=32) for alpha in (0.0, 0.002, 0.01)]
    runs = [l1_sparse(known.parent, known.at_random(90), plan, around=known.around(drop=1)).model for plan in plans]
    sizes, shares = [_size(model) for model in runs], [_share_near_zero(model) for model in runs]
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]
    assert shares[2] > 2 * shares[1] > 4 * shares[0]


def test_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given, parent = splits(), net(norm=True)
    first = l1_sparse(parent, given, _config(), around=around())
    second = l1_sparse(parent, with_other_images(given, given.forget_index), _config(), around=around())
    assert equal(first.model, second.model)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(l1_sparse, _config())


@pytest.mark.parametrize("wrong", [{"alpha": -1e-4}, {"alpha": 1.1}, {"epochs": 0}, {"lr": 0.0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        L1SparseConfig.model_validate(wrong)


def test_a_net_that_knows_digits_forgets_a_class_that_fine_tuning_alone_leaves_known() -> None:
    known, steps = digits(), {"lr": 0.05, "batch_size": 32}
    result = l1_sparse(
        known.parent, known.of_class(3), L1SparseConfig(alpha=0.005, **steps), around=known.around(drop=0.05)
    )
    tuned = finetune(known.parent, known.of_class(3), FinetuneConfig(**steps), around=known.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] >= 0.98
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05
    assert tuned.history[tuned.selection["epoch"]]["forget_error"] < 0.6


def test_the_defaults_are_too_few_steps_for_a_small_set_and_leave_most_of_a_class_known() -> None:
    known = digits()
    result = l1_sparse(known.parent, known.of_class(3), L1SparseConfig(), around=known.around(drop=0.05))
    assert 0 < result.history[result.selection["epoch"]]["forget_error"] < 0.1
    assert result.history[-1]["forget_loss"] > result.history[0]["forget_loss"]


def test_a_penalty_that_costs_too_much_accuracy_ends_with_a_verdict() -> None:
    known, harsh = digits(), L1SparseConfig(alpha=0.5, lr=0.05, batch_size=32)
    with pytest.raises(UtilityLostError, match="no epoch kept selection accuracy"):
        l1_sparse(known.parent, known.of_class(3), harsh, around=known.around(drop=0.05))
