"""SalUn: its mask against the formula, what the mask must hold still, and that a trained net forgets."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import SalunConfig
from tests.method_cases import DoubleTask, around, digits, net, splits
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.reproducibility import generator_for
from workers.samples import joined
from workers.unlearning.interface import UnlearningError
from workers.unlearning.random_label import with_wrong_labels
from workers.unlearning.salun import forget_gradient, saliency_mask, salun

PLAIN: dict[str, Any] = {
    "tail_epochs": 0,
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.3, "epochs": 1,
    "retain_batch_size": 64, "forget_batch_size": 64, "rewind": "none",
}  # fmt: skip


def _config(**changes: Any) -> SalunConfig:
    return SalunConfig(**{**PLAIN, **changes})


def _mask_by_hand(share: float) -> list[Any]:
    """Keep the largest entries of the summed gradient by a sort of all."""
    w, forget = layers_of(net()), splits().forget
    gradient = backward(w, inputs_of(forget), cross_entropy_slope(w, forget))
    sizes = np.sort(np.abs(np.concatenate([g.ravel() for g in gradient])))[::-1]
    edge = sizes[round(share * len(sizes)) - 1]
    return [np.abs(g) >= edge for g in gradient]


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_mask_keeps_the_largest_of_the_summed_forget_gradient(share: float) -> None:
    mask = saliency_mask(forget_gradient(net(), splits().forget, DoubleTask()), share)
    for found, wanted in zip(mask.values(), _mask_by_hand(share), strict=True):
        np.testing.assert_array_equal(found.numpy(), wanted)


def test_one_step_equals_the_formula() -> None:
    student, cut = net(), splits()
    w = layers_of(student)
    result = salun(student, cut, _config(), around=around(4))
    generator = generator_for(4)
    torch.randperm(48, generator=generator)
    order = torch.randperm(12, generator=generator)
    both = joined(cut.retain, with_wrong_labels(cut.forget.take(order), 3, generator))
    steps = backward(w, inputs_of(both), cross_entropy_slope(w, both) / 60)
    assert_weights(result.model, [a - 0.3 * m * b for a, b, m in zip(w, steps, _mask_by_hand(0.5), strict=True)])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_trap_momentum_and_weight_decay_do_not_move_masked_weights(optimizer: str) -> None:
    parent, cut = net(norm=True), splits()
    config = _config(optimizer=optimizer, momentum=0.9, weight_decay=0.1, lr=0.01, epochs=3, retain_batch_size=8)
    result = salun(parent, cut, config, around=around())
    mask = saliency_mask(forget_gradient(parent, cut.forget, DoubleTask()), 0.5)
    moved = dict(result.model.named_parameters())
    for name, w in parent.named_parameters():
        assert torch.equal(moved[name][~mask[name]], w[~mask[name]])
    assert any(not torch.equal(moved[name][mask[name]], w[mask[name]]) for name, w in parent.named_parameters())


def test_trap_norm_buffers_stay_the_originals() -> None:
    parent = net(norm=True)
    result = salun(parent, splits(), _config(epochs=2, retain_batch_size=8), around=around())
    for name, buffer in parent.named_buffers():
        assert torch.equal(result.model.get_buffer(name), buffer)


def test_a_rate_left_null_is_a_twentieth_of_the_recipes() -> None:
    found = [
        salun(net(norm=True), splits(), _config(lr=lr, retain_batch_size=8), around=around()).model
        for lr in (None, 0.05 * around().recipe.lr)
    ]
    assert all(torch.equal(*pair) for pair in zip(*(model.parameters() for model in found), strict=True))


def test_the_mask_does_not_depend_on_the_mode_and_leaves_the_model_as_it_was() -> None:
    parent = net(norm=True, drop=True)
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    first = forget_gradient(parent, splits().forget, DoubleTask())
    parent.train()
    again = forget_gradient(parent, splits().forget, DoubleTask())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert parent.training
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())
    assert all(w.grad is None for w in parent.parameters())


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UnlearningError, match="not finite"):
        saliency_mask({"w": torch.tensor([1.0, torch.nan])}, 0.5)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(salun, _config(epochs=2, retain_batch_size=16))


def test_the_papers_preset_has_the_published_values() -> None:
    paper = SalunConfig(preset="paper")
    assert (paper.lr, paper.epochs, paper.saliency) == (0.013, 10, 0.5)


@pytest.mark.parametrize("wrong", [{"saliency": 0.0}, {"saliency": 1.5}, {"epochs": 0}, {"lr": 2.0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SalunConfig.model_validate(wrong)


def test_a_trained_net_forgets_and_keeps_its_accuracy() -> None:
    trained = digits()
    result = salun(trained.parent, trained.of_class(3), SalunConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_error"] > start["forget_error"] + 0.5
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05
