"""The incompetent teacher: its steps against the formula, what each teacher is asked, and that a net forgets."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import BadTeacherConfig
from tests.method_cases import Digits, DoubleTask, around, digits, equal, net, splits
from tests.method_formulas import assert_a_sound_run, assert_weights, backward, forward, inputs_of, layers_of, softmax
from workers.pipeline import build_model
from workers.reproducibility import derived_seed, generator_for
from workers.samples import joined
from workers.unlearning.bad_teacher import bad_teacher, lesson
from workers.unlearning.interface import Surroundings

PLAIN: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.3, "epochs": 2, "batch_size": 64}


def _config(**changes: Any) -> BadTeacherConfig:
    return BadTeacherConfig(**{**PLAIN, **changes})


def _around(known: Digits, *, drop: float) -> Surroundings:
    """Build really untrained nets, where the shared surroundings return the parent."""
    return replace(known.around(drop=drop), build_model=lambda seed: build_model(known.spec, seed))


def test_two_steps_equal_the_formula() -> None:
    student, cut, generator = net(), splits(), generator_for(4)
    result = bad_teacher(student, cut, _config(retain_share=0.5), around=around(4))
    untrained = layers_of(net(seed=derived_seed(generator)))
    drawn = cut.retain.take(torch.randperm(48, generator=generator)[:24])
    w = layers_of(student)
    q_r = softmax(forward(w, inputs_of(drawn))[2])
    q_f = softmax(forward(untrained, inputs_of(cut.forget))[2])
    x, q = inputs_of(joined(drawn, cut.forget)), np.concatenate([q_r, q_f])
    losses = []
    for _ in range(2):
        p = softmax(forward(w, x)[2])
        losses.append(np.mean((q * np.log(q / p)).sum(1)))
        w = [a - 0.3 * b for a, b in zip(w, backward(w, x, (p - q) / 36), strict=True)]
    assert_weights(result.model, w)
    assert [row["objectives"]["loss"] for row in result.history[1:]] == pytest.approx(losses, rel=1e-6)


def test_the_original_is_asked_of_retained_samples_and_an_untrained_net_of_forgotten_ones() -> None:
    original, cut, near = net(), splits(), around(7)
    both, log_q = lesson(original, cut, 0.25, near)
    untrained = net(seed=derived_seed(generator_for(7)))
    assert torch.equal(both.images[12:], cut.forget.images)
    kept = {image.numpy().tobytes() for image in cut.retain.images}
    drawn = {image.numpy().tobytes() for image in both.images[:12]}
    assert drawn <= kept
    assert len(drawn) == 12
    torch.testing.assert_close(log_q[:12], DoubleTask().logits(original, both.images[:12]).log_softmax(1))
    torch.testing.assert_close(log_q[12:], DoubleTask().logits(untrained, both.images[12:]).log_softmax(1))


def test_a_student_that_agrees_with_both_teachers_stays() -> None:
    parent = net()
    agreed = replace(around(), build_model=lambda _seed: net())
    result = bad_teacher(parent, splits(), _config(), around=agreed)
    for found, w in zip(result.model.parameters(), parent.parameters(), strict=True):
        torch.testing.assert_close(found, w, rtol=0, atol=1e-12)


def test_trap_norm_buffers_stay_the_originals() -> None:
    parent = net(norm=True)
    result = bad_teacher(parent, splits(), _config(batch_size=8), around=around())
    for name, buffer in parent.named_buffers():
        assert torch.equal(result.model.get_buffer(name), buffer)
    assert not equal(parent, result.model)


def test_a_run_is_sound() -> None:
    assert_a_sound_run(bad_teacher, _config(batch_size=16))


def test_the_defaults_are_the_published_values() -> None:
    config = BadTeacherConfig()
    assert (config.optimizer, config.lr, config.epochs, config.retain_share) == ("adam", 1e-4, 1, 0.3)


@pytest.mark.parametrize("wrong", [{"retain_share": 0.0}, {"retain_share": 1.1}, {"epochs": 0}, {"lr": 0.0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BadTeacherConfig.model_validate(wrong)


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy() -> None:
    known = digits()
    config = BadTeacherConfig(lr=1e-3, epochs=10, batch_size=32)
    result = bad_teacher(known.parent, known.of_class(3), config, around=_around(known, drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.5
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_one_published_epoch_on_a_small_set_is_too_little_to_forget() -> None:
    known = digits()
    result = bad_teacher(known.parent, known.of_class(3), BadTeacherConfig(), around=_around(known, drop=0.05))
    assert result.history[1]["forget_error"] < 0.5
    assert result.verdict == "completed"
