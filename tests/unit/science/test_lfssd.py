"""LFSSD: dampening against the formula, that no label enters it, what it may read, and what a trained net forgets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import LfssdConfig, SsdConfig
from tests.method_cases import DoubleTask, around, digits, equal, net, splits, without_retain_data
from tests.method_formulas import Layers, assert_a_sound_run, assert_weights, backward, forward, inputs_of, layers_of
from workers.samples import LabelledSet
from workers.unlearning.importance import LOSS, OUTPUT, diagonal_importance
from workers.unlearning.interface import RetainSetGoneError, UnlearningSplits
from workers.unlearning.lfssd import lfssd
from workers.unlearning.ssd import ssd


def _omega(given: LabelledSet) -> Layers:
    """Return the mean over samples of |d ||f||^2 / d theta|, one sample at a time."""
    w, total = layers_of(net()), [np.zeros_like(theta) for theta in layers_of(net())]
    for x in inputs_of(given):
        row = x[None]
        slopes = backward(w, row, 2 * forward(w, row)[2])
        total = [so_far + np.abs(slope) for so_far, slope in zip(total, slopes, strict=True)]
    return [so_far / len(given) for so_far in total]


def _relabelled(given: UnlearningSplits) -> UnlearningSplits:
    """Return the same images with every training label moved on by one."""
    train = LabelledSet(images=given.train.images, labels=(given.train.labels + 1) % 3)
    return UnlearningSplits(train=train, forget_index=given.forget_index, selection=given.selection)


@pytest.mark.parametrize(("alpha", "lam"), [(1.1, 1.0), (1.0, 0.5), (0.9, 1.0), (1.1, None)])
def test_dampening_equals_the_formula(alpha: float, lam: float | None) -> None:
    cut = splits()
    result = lfssd(net(), cut, LfssdConfig(alpha=alpha, lam=lam), around=around())
    used = alpha / 10 if lam is None else lam
    expected, hit = [], 0
    for theta, o_f, o_d in zip(layers_of(net()), _omega(cut.forget), _omega(cut.train), strict=True):
        expected.append(np.where(o_f > alpha * o_d, np.minimum(used * o_d / o_f, 1) * theta, theta))
        hit += int((o_f > alpha * o_d).sum())
    assert_weights(result.model, expected)
    count = sum(w.size for w in expected)
    assert 0 < hit < count, "some weights must be dampened and some not"
    assert result.history[1]["objectives"]["dampened_share"] == hit / count


def test_no_label_has_a_part_in_a_model_of_named_strength() -> None:
    given, named = splits(), {"alpha": 1.1}
    first = lfssd(net(), given, LfssdConfig(**named), around=around())
    assert equal(first.model, lfssd(net(), _relabelled(given), LfssdConfig(**named), around=around()).model)
    by_loss = [ssd(net(), cut, SsdConfig(**named), around=around()).model for cut in (given, _relabelled(given))]
    assert not equal(*by_loss)


def test_no_label_has_a_part_in_the_strengths_tried() -> None:
    tried = [
        lfssd(net(), cut, LfssdConfig(), around=around()).selection["grid"] for cut in (splits(), _relabelled(splits()))
    ]
    assert tried[0] == tried[1]


def test_a_prepared_importance_gives_the_same_model_without_reading_a_retained_sample() -> None:
    cut, parent = splits(), net()
    prepared = {"importance_output": diagonal_importance(parent, cut.train, DoubleTask(), score=OUTPUT)}
    there = lfssd(parent, cut, LfssdConfig(), around=around())
    gone = lfssd(parent, without_retain_data(cut), LfssdConfig(), around=replace(around(), prepared=prepared))
    for name, value in there.model.state_dict().items():
        torch.testing.assert_close(gone.model.state_dict()[name], value)
    assert gone.selection["importance"]["prepared"]


def test_the_importance_prepared_for_ssd_is_not_taken_for_its_own() -> None:
    prepared = {"importance_loss": diagonal_importance(net(), splits().train, DoubleTask(), score=LOSS)}
    with pytest.raises(RetainSetGoneError):
        lfssd(net(), without_retain_data(splits()), LfssdConfig(), around=replace(around(), prepared=prepared))


def test_a_run_is_sound_and_draws_nothing() -> None:
    assert_a_sound_run(lfssd, LfssdConfig(), draws=False)


def test_buffers_stay() -> None:
    parent = net(norm=True)
    result = lfssd(parent, splits(), LfssdConfig(shares=(0.3,)), around=around())
    assert all(torch.equal(buffer, parent.get_buffer(name)) for name, buffer in result.model.named_buffers())


def test_no_strength_published_for_another_importance_is_a_preset() -> None:
    with pytest.raises(ValidationError):
        LfssdConfig.model_validate({"preset": "paper"})


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy() -> None:
    trained = digits()
    result = lfssd(trained.parent, trained.of_class(3), LfssdConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] >= 0.98
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_a_random_subset_stays_known_within_the_accuracy_allowed() -> None:
    trained = digits()
    result = lfssd(trained.parent, trained.at_random(90), LfssdConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] < 1.1 * start["forget_loss"]
