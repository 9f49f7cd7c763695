"""NegGrad+: its step against the formula in float64, its cap and tail, and that a trained net forgets."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import NegGradPlusConfig
from tests.method_cases import around, digits, equal, net, splits, with_other_images
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropies,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningSplits
from workers.unlearning.neggrad_plus import neggrad_plus, neggrad_plus_epochs

PLAIN: dict[str, Any] = {
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.2, "epochs": 1, "tail_epochs": 0,
    "retain_batch_size": 64, "forget_batch_size": 64, "forget_cap": None, "rewind": "none",
}  # fmt: skip


def _config(**changes: Any) -> NegGradPlusConfig:
    return NegGradPlusConfig(**{**PLAIN, **changes})


@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("cap", [None, 1.0])
def test_one_step_equals_the_formula(beta: float, cap: float | None) -> None:
    student, cut = net(), splits()
    w = layers_of(student)
    result = neggrad_plus(student, cut, _config(beta=beta, forget_cap=cap), around=around())
    kept = backward(w, inputs_of(cut.retain), cross_entropy_slope(w, cut.retain) / 48)
    below = cross_entropies(w, cut.forget) < (np.inf if cap is None else cap * math.log(3))
    assert cap is None or 0 < below.sum() < 12, "the cap must bind on some samples and not on others"
    slope = cross_entropy_slope(w, cut.forget) * below[:, None] / 12
    lost = backward(w, inputs_of(cut.forget), slope)
    steps = [beta * a - (1 - beta) * b for a, b in zip(kept, lost, strict=True)]
    assert_weights(result.model, [a - 0.2 * b for a, b in zip(w, steps, strict=True)])


def test_the_forget_batches_are_cycled_beside_one_pass_over_the_retain_set_and_the_tail_reads_none() -> None:
    read: list[int] = []

    class Watched(LabelledSet):
        def take(self, index: torch.Tensor) -> LabelledSet:
            read.extend(index.tolist())
            return super().take(index)

    cut = splits()
    cut.__dict__["forget"] = Watched(images=cut.forget.images, labels=cut.forget.labels)
    config = _config(retain_batch_size=8, forget_batch_size=6, tail_epochs=2)
    assert len(list(neggrad_plus_epochs(net(), cut, config, around()))) == 3
    assert sorted(read) == sorted(3 * list(range(12))), "6 steps of 6 are three passes over 12 samples"


def test_a_step_of_the_tail_is_one_on_the_retain_loss_at_the_lower_rate() -> None:
    config = _config(beta=0.6, tail_epochs=1, tail_lr_factor=0.1)
    student, cut = net(), splits()
    epochs = neggrad_plus_epochs(student, cut, config, around())
    next(epochs)
    w = layers_of(student)
    next(epochs)
    kept = backward(w, inputs_of(cut.retain), cross_entropy_slope(w, cut.retain) / 48)
    assert_weights(student, [a - 0.02 * b for a, b in zip(w, kept, strict=True)])


def test_the_tail_fills_the_norm_buffers_from_retained_samples_alone() -> None:
    cut = splits()
    other = with_other_images(cut, cut.forget_index)
    # at beta 1 and next to no rate the weights agree: the buffers alone saw the forget set, and momentum 1 drops it
    students = [net(norm=True), net(norm=True)]
    for student, each in zip(students, (cut, other), strict=True):
        student[2].momentum = 1.0  # type: ignore[assignment]
        list(neggrad_plus_epochs(student, each, _config(beta=1.0, lr=1e-12, tail_epochs=1), around()))
    for name, buffer in students[0].named_buffers():
        torch.testing.assert_close(buffer, students[1].get_buffer(name), rtol=1e-6, atol=1e-9)


def test_a_capped_loss_stays_near_its_cap_where_an_uncapped_one_runs_away() -> None:
    def forget_loss(cap: float | None) -> float:
        config = _config(beta=0.5, forget_cap=cap, epochs=40, lr=0.5, retain_batch_size=16)
        result = neggrad_plus(net(), splits(), config, around=around())
        return float(result.history[-1]["forget_loss"])

    assert forget_loss(None) > 4 * math.log(3)
    assert forget_loss(1.0) < 2 * math.log(3)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(neggrad_plus, _config(epochs=2, tail_epochs=1, retain_batch_size=16, forget_batch_size=4))


def test_a_single_forgotten_sample_passes_a_norm_layer() -> None:
    cut = splits()
    single = UnlearningSplits(train=cut.train, forget_index=torch.tensor([5]), selection=cut.selection)
    neggrad_plus(net(norm=True), single, NegGradPlusConfig(epochs=1), around=around())


def test_the_defaults_follow_the_recipe_and_the_presets_are_the_papers() -> None:
    assert NegGradPlusConfig().lr is None
    small, large = NegGradPlusConfig(preset="small"), NegGradPlusConfig(preset="large")
    assert (small.beta, large.beta) == (0.95, 0.9999)
    assert all((c.lr, c.epochs, c.tail_epochs, c.forget_cap) == (0.01, 10, 0, None) for c in (small, large))


@pytest.mark.parametrize(
    "wrong", [{"beta": 1.1}, {"beta": -0.1}, {"forget_cap": 0.0}, {"epochs": 0}, {"lr": 0.0}, {"tail_lr_factor": 2.0}]
)
def test_options_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        NegGradPlusConfig.model_validate(wrong)


@pytest.mark.parametrize("forget_class", [None, 3])
def test_a_trained_net_forgets_and_keeps_its_accuracy(forget_class: int | None) -> None:
    trained = digits()
    cut = trained.at_random(90) if forget_class is None else trained.of_class(forget_class)
    result = neggrad_plus(trained.parent, cut, NegGradPlusConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] > 1.5 * start["forget_loss"] + 0.02
    assert forget_class is None or taken["forget_error"] > 0.9
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05
    assert result.selection["epoch"] > NegGradPlusConfig().epochs, "an epoch of the tail"


def test_the_rate_left_null_is_a_share_of_the_recipes() -> None:
    nets = [neggrad_plus(net(), splits(), _config(lr=lr), around=around(lr=0.2)).model for lr in (None, 0.1)]
    assert equal(*nets)
