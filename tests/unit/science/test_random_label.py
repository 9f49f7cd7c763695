"""Random labels: the step against the formula in float64, the labels drawn, and that a trained net forgets."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import RandomLabelConfig
from tests.method_cases import around, digits, net, samples, splits
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, joined
from workers.unlearning.random_label import random_label, random_label_epochs, with_wrong_labels

PLAIN: dict[str, Any] = {
    "tail_epochs": 0,
    "optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "lr": 0.3, "epochs": 1,
    "retain_batch_size": 64, "forget_batch_size": 64, "rewind": "none",
}  # fmt: skip


def _config(**changes: Any) -> RandomLabelConfig:
    return RandomLabelConfig(**{**PLAIN, **changes})


def test_one_step_equals_the_formula() -> None:
    student, cut = net(), splits()
    w = layers_of(student)
    result = random_label(student, cut, _config(), around=around(4))
    # the same draws: the order of the retain set, that of the forget set, then the labels
    generator = generator_for(4)
    torch.randperm(48, generator=generator)
    order = torch.randperm(12, generator=generator)
    wrong = with_wrong_labels(cut.forget.take(order), 3, generator)
    both = joined(cut.retain, wrong)
    steps = backward(w, inputs_of(both), cross_entropy_slope(w, both) / 60)
    assert_weights(result.model, [a - 0.3 * b for a, b in zip(w, steps, strict=True)])


def test_a_wrong_label_is_never_the_true_one_and_is_drawn_evenly_from_the_others() -> None:
    given = samples(6000, 0, classes=5)
    drawn = with_wrong_labels(given, 5, generator_for(0))
    assert torch.equal(drawn.images, given.images)
    for label in range(5):
        counts = torch.bincount(drawn.labels[given.labels == label], minlength=5).double() / 1200
        wanted = [0.0 if other == label else 0.25 for other in range(5)]
        np.testing.assert_allclose(counts.numpy(), wanted, atol=0.06)


def test_labels_are_drawn_anew_each_time_from_the_generator_passed() -> None:
    given, generator = samples(300, 0), generator_for(1)
    first, second = (with_wrong_labels(given, 3, generator).labels for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(with_wrong_labels(given, 3, generator_for(1)).labels, first)


def test_an_epoch_meets_each_sample_of_both_sets_once_and_the_tail_no_forgotten_one() -> None:
    read: list[int] = []

    class Watched(LabelledSet):
        def take(self, index: torch.Tensor) -> LabelledSet:
            read.extend(index.tolist())
            return super().take(index)

    cut = splits()
    epochs = random_label_epochs(
        net(), cut, _config(retain_batch_size=8, forget_batch_size=None, tail_epochs=2), around()
    )
    cut.__dict__["forget"] = Watched(images=cut.forget.images, labels=cut.forget.labels)
    assert len(list(epochs)) == 3
    assert sorted(read) == sorted([0, *range(12)]), "12 samples in 6 steps, and one to count the classes"


def test_a_run_is_sound() -> None:
    assert_a_sound_run(random_label, _config(epochs=2, tail_epochs=1, retain_batch_size=16))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": 0.0}, {"tail_epochs": -1}, {"rewind": "other"}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RandomLabelConfig.model_validate(wrong)


def test_a_trained_net_forgets_and_keeps_its_accuracy() -> None:
    trained = digits()
    result = random_label(trained.parent, trained.of_class(3), RandomLabelConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_error"] > start["forget_error"] + 0.5
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_the_tail_goes_at_its_share_of_the_rate() -> None:
    """Of plain SGD a step of the tail is as long as its share of the rate says."""
    walked = []
    for factor in (1.0, 0.25):
        student = net()
        config = _config(epochs=1, tail_epochs=1, tail_lr_factor=factor, retain_batch_size=64)
        epochs = random_label_epochs(student, splits(), config, around(4))
        next(epochs)
        before = [w.detach().clone() for w in student.parameters()]
        next(epochs)
        walked.append(
            torch.cat([(w.detach() - b).flatten() for w, b in zip(student.parameters(), before, strict=True)])
        )
    torch.testing.assert_close(walked[1], walked[0] * 0.25)
