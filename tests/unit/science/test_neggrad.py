"""NegGrad: its step against the formula in float64, what it reads, and that it forgets or says that it collapsed."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import NegGradConfig
from tests.method_cases import around, digits, equal, net, splits, with_other_images, without_retain_data
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropies,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.unlearning.interface import UtilityLostError
from workers.unlearning.neggrad import ascending_epochs, neggrad


def _config(**changes: Any) -> NegGradConfig:
    return NegGradConfig(**{"epochs": 1, "lr": 0.2, "batch_size": 64, **changes})


def test_one_step_equals_the_formula() -> None:
    moved, cut = net(), splits()
    w = layers_of(moved)
    (told,) = ascending_epochs(moved, cut, _config(), around())
    assert told["loss"] == pytest.approx(cross_entropies(w, cut.forget).mean(), rel=1e-6)
    slope = backward(w, inputs_of(cut.forget), cross_entropy_slope(w, cut.forget) / 12)
    assert_weights(moved, [a + 0.2 * b for a, b in zip(w, slope, strict=True)])


def test_a_small_step_raises_the_loss_of_the_forget_set() -> None:
    moved, cut = net(), splits()
    list(ascending_epochs(moved, cut, _config(lr=1e-3), around()))
    assert cross_entropies(layers_of(moved), cut.forget).mean() > cross_entropies(layers_of(net()), cut.forget).mean()


def test_the_loss_has_no_bound() -> None:
    result = neggrad(net(), splits(), _config(epochs=40, lr=0.5), around=around())
    assert result.history[-1]["forget_loss"] > 4 * math.log(3)


def test_no_retain_sample_is_read() -> None:
    given = splits()
    first = neggrad(net(), given, _config(epochs=3), around=around())
    other = neggrad(net(), with_other_images(given, given.retain_index), _config(epochs=3), around=around())
    gone = neggrad(net(), without_retain_data(given), _config(epochs=3), around=around())
    assert equal(first.model, other.model)
    assert equal(first.model, gone.model)


def test_every_buffer_stays_and_dropout_is_off() -> None:
    parent = net(norm=True, drop=True).train()
    result = neggrad(parent, splits(), _config(), around=around())
    assert all(torch.equal(value, parent.get_buffer(name)) for name, value in result.model.named_buffers())
    assert equal(result.model, neggrad(parent.eval(), splits(), _config(), around=around()).model)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(neggrad, _config(epochs=2, batch_size=4))


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"epochs": 0}, {"batch_size": 0}, {"momentum": 1.0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        NegGradConfig.model_validate(wrong)


def test_a_trained_net_forgets_a_class_before_the_guard_ends_the_collapse() -> None:
    trained = digits()
    result = neggrad(trained.parent, trained.of_class(3), NegGradConfig(), around=trained.around(drop=0.15))
    start, taken, last = result.history[0], result.history[result.selection["epoch"]], result.history[-1]
    assert taken["forget_error"] > 0.9
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.15
    assert result.verdict == "utility_guard"
    assert last["selection_accuracy"] < start["selection_accuracy"] - 0.15


def test_a_run_that_collapses_at_once_says_so() -> None:
    trained = digits()
    with pytest.raises(UtilityLostError, match=r"guard: no epoch kept selection accuracy at or above") as caught:
        neggrad(trained.parent, trained.at_random(90), NegGradConfig(lr=0.01), around=trained.around(drop=0.05))
    assert caught.value.history[-1]["selection_accuracy"] < 0.5
