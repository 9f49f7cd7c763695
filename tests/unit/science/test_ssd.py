"""SSD: dampening against the formula, its grid, what it may read, and that a trained net forgets."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from service.catalogue.methods import SsdConfig
from tests.method_cases import DoubleTask, around, digits, equal, net, splits, without_retain_data
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    backward,
    cross_entropy_slope,
    inputs_of,
    layers_of,
)
from workers.samples import LabelledSet
from workers.unlearning.dampening import alphas_for
from workers.unlearning.importance import diagonal_importance
from workers.unlearning.interface import RetainSetGoneError, UnlearningError
from workers.unlearning.ssd import ssd


def _fisher(given: LabelledSet) -> list[Any]:
    w = layers_of(net())
    slopes = cross_entropy_slope(w, given)
    rows = [backward(w, inputs_of(given)[i : i + 1], slopes[i : i + 1]) for i in range(len(given))]
    return [np.mean([row[k] ** 2 for row in rows], 0) for k in range(len(w))]


@pytest.mark.parametrize(("alpha", "lam"), [(1.1, 1.0), (1.0, 0.5), (0.9, 1.0), (1.1, None)])
def test_dampening_equals_the_formula(alpha: float, lam: float | None) -> None:
    cut = splits()
    result = ssd(net(), cut, SsdConfig(alpha=alpha, lam=lam), around=around())
    used = alpha / 10 if lam is None else lam
    expected, hit = [], 0
    for theta, f_f, f_d in zip(layers_of(net()), _fisher(cut.forget), _fisher(cut.train), strict=True):
        beta = np.minimum(used * f_d / f_f, 1)
        expected.append(np.where(f_f > alpha * f_d, beta * theta, theta))
        hit += int((f_f > alpha * f_d).sum())
    assert_weights(result.model, expected)
    count = sum(w.size for w in expected)
    assert 0 < hit < count, "some weights must be dampened and some not"
    assert result.history[1]["objectives"] == {"alpha": alpha, "lambda": used, "dampened_share": hit / count}


def test_a_prepared_importance_gives_the_same_model_without_reading_a_retained_sample() -> None:
    cut, parent = splits(), net()
    prepared = {"importance_loss": diagonal_importance(parent, cut.train, DoubleTask())}
    there = ssd(parent, cut, SsdConfig(), around=around())
    gone = ssd(parent, without_retain_data(cut), SsdConfig(), around=replace(around(), prepared=prepared))
    for name, value in there.model.state_dict().items():
        torch.testing.assert_close(gone.model.state_dict()[name], value)
    assert gone.selection["importance"]["prepared"]
    assert not there.selection["importance"]["prepared"]


def test_neither_retain_data_nor_a_prepared_importance_is_a_verdict_the_ladder_knows() -> None:
    with pytest.raises(RetainSetGoneError):
        ssd(net(), without_retain_data(splits()), SsdConfig(), around=around())


def test_an_importance_prepared_for_another_network_is_refused() -> None:
    other = {"importance_loss": diagonal_importance(net(classes=4), splits().train, DoubleTask())}
    with pytest.raises(UnlearningError, match="another network"):
        ssd(net(), splits(), SsdConfig(), around=replace(around(), prepared=other))


def _importances() -> tuple[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]]:
    cut = splits()
    return tuple(diagonal_importance(net(), each, DoubleTask()) for each in (cut.forget, cut.train))  # type: ignore[return-value]


def test_the_grid_dampens_the_shares_asked_for_gentlest_first() -> None:
    f_f, f_d = _importances()
    shares = (0.1, 0.02, 0.5)
    alphas = alphas_for(f_f, f_d, shares)
    assert list(alphas) == sorted(alphas, reverse=True)
    count = sum(f.numel() for f in f_f.values())
    hit = [sum(int((f_f[name] > alpha * f_d[name]).sum()) for name in f_f) / count for alpha in alphas]
    np.testing.assert_allclose(hit, sorted(shares), atol=2 / count)


def test_no_alpha_beyond_the_ratio_of_the_set_sizes_dampens_anything() -> None:
    f_f, f_d = _importances()
    ratio = len(splits().train) / len(splits().forget)
    assert max(float((f_f[name] / f_d[name]).nan_to_num(0.0).max()) for name in f_f) <= ratio * (1 + 1e-9)


def test_a_forget_set_that_moves_no_weight_is_refused() -> None:
    zero = {"w": torch.zeros(4, dtype=torch.float64)}
    with pytest.raises(UnlearningError, match="no weight matters"):
        alphas_for(zero, {"w": torch.ones(4, dtype=torch.float64)}, (0.1,))


def test_every_candidate_starts_from_the_original_weights() -> None:
    alpha = SsdConfig(shares=(0.05, 0.3))
    both = ssd(net(), splits(), alpha, around=around())
    alone = ssd(net(), splits(), SsdConfig(alpha=both.selection["alpha"]), around=around())
    assert equal(both.model, alone.model)
    assert both.selection["alpha"] in both.selection["grid"]
    assert len(both.history) == 1 + len(both.selection["grid"])


def test_a_run_is_sound_and_draws_nothing() -> None:
    assert_a_sound_run(ssd, SsdConfig(), draws=False)


def test_buffers_stay() -> None:
    parent = net(norm=True)
    result = ssd(parent, splits(), SsdConfig(shares=(0.3,)), around=around())
    for name, buffer in parent.named_buffers():
        assert torch.equal(result.model.get_buffer(name), buffer)


def test_the_papers_preset_takes_the_published_alpha() -> None:
    paper = SsdConfig(preset="paper")
    assert (paper.alpha, paper.lam) == (10.0, 1.0)
    assert SsdConfig().alpha is None


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"lam": 0.0}, {"shares": ()}, {"shares": (1.5,)}, {"memory_mib": 0}])
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SsdConfig.model_validate(wrong)


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy() -> None:
    trained = digits()
    result = ssd(trained.parent, trained.of_class(3), SsdConfig(), around=trained.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_error"] >= 0.98
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05
