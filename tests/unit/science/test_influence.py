"""Influence: the step against a dense solution and against retraining, what it may move, and which nets it refuses."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.autograd.functional import hvp
from torch.nn.functional import cross_entropy

from service.catalogue.methods import InfluenceConfig
from service.catalogue.recipe import Recipe
from tests.method_cases import FORGET, DoubleTask, around, conv_net, digits, equal, net, splits, without_retain_data
from tests.method_formulas import (
    assert_a_sound_run,
    assert_weights,
    forward,
    layers_of,
    softmax,
)
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning import last_linear
from workers.unlearning.conjugate_gradient import conjugate_gradient
from workers.unlearning.influence import influence, l2_of
from workers.unlearning.interface import RetainSetGoneError, UnlearningError, UnlearningResult, UnlearningSplits

L2 = 0.01


def _config(**changes: Any) -> InfluenceConfig:
    return InfluenceConfig(**{"tolerance": 1e-10, "scale": 1.0, **changes})


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator_for(seed))


def _inputs(samples: LabelledSet) -> Any:
    """Return what the net is given, rounded to float32 as it is: the inverse enlarges what is lost there."""
    return DoubleTask().inputs(samples.images).flatten(1).numpy()


def _hessian(x: Any, p: Any) -> Any:
    """Return the Hessian of the mean cross-entropy, put together sample by sample."""
    return np.mean([np.kron(np.diag(p[n]) - np.outer(p[n], p[n]), np.outer(x[n], x[n])) for n in range(len(x))], 0)


def _slopes(z: Any, samples: LabelledSet) -> Any:
    return softmax(z) - np.eye(3)[samples.labels.numpy()]


def _dense_step(given: UnlearningSplits, *, l2: float, damping: float) -> Any:
    """Return the step in W (3, 7) of the three-layer net, by inverting."""
    w = layers_of(net())
    (_, kept, z_kept), (_, lost, z_lost) = (forward(w, _inputs(part)) for part in (given.retain, given.forget))
    x, x_lost = (np.hstack([features, np.ones((len(features), 1))]) for features in (kept, lost))
    pull = _slopes(z_lost, given.forget).T @ x_lost + len(lost) * l2 * np.hstack([w[4], w[5][:, None]])
    damped = _hessian(x, softmax(z_kept)) + (l2 + damping) * np.eye(21)
    return np.linalg.solve(damped, pull.ravel() / len(x)).reshape(3, 7)


@pytest.mark.parametrize(("scale", "l2", "damping"), [(1.0, 0.0, 1e-2), (1.0, 0.02, 1e-3), (3.0, 0.02, 0.1)])
def test_the_step_equals_a_dense_solution(scale: float, l2: float, damping: float) -> None:
    given = splits()
    result = influence(net(), given, _config(scale=scale, l2=l2, damping=damping), around=around())
    w, step = layers_of(net()), _dense_step(given, l2=l2, damping=damping)
    assert_weights(result.model, [*w[:4], w[4] + scale * step[:, :6], w[5] + scale * step[:, 6]])
    objectives = result.history[1]["objectives"]
    assert objectives["step_norm"] == pytest.approx(scale * np.linalg.norm(step), rel=1e-5)
    assert objectives["residual"] <= 1e-9
    assert objectives["residual"] == result.selection["solved"]["residual"]


def _minimiser(samples: LabelledSet) -> nn.Sequential:
    """Return softmax regression at the minimum of its mean loss with the penalty L2 / 2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double().eval()
    weights = list(model.parameters())
    optimizer = torch.optim.LBFGS(
        weights, max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = DoubleTask().per_sample_loss(model, samples.images, samples.labels).mean()
        loss = loss + L2 / 2 * sum(w.square().sum() for w in weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert max(float(w.grad.abs().max()) for w in weights if w.grad is not None) < 1e-8
    optimizer.zero_grad()
    return model


def _distance(a: nn.Module, b: nn.Module) -> float:
    return float(np.sqrt(sum(np.sum((v - w) ** 2) for v, w in zip(layers_of(a), layers_of(b), strict=True))))


@pytest.mark.parametrize(("count", "left"), [(1, 0.01), (FORGET, 0.1)])
def test_from_a_minimum_over_all_data_it_lands_near_the_minimum_over_the_retain_set(count: int, left: float) -> None:
    """A Newton step's error is of second order: the fewer are forgotten, the smaller the share that is left."""
    given = UnlearningSplits(train=splits().train, forget_index=torch.arange(count), selection=splits().selection)
    original, retrained = _minimiser(given.train), _minimiser(given.retain)
    before = _distance(original, retrained)
    moved = influence(original, given, _config(l2=L2, damping=1e-10), around=around()).model
    assert before > 0.01
    assert _distance(moved, retrained) < left * before


def test_half_the_step_and_a_penalty_left_out_land_further_off() -> None:
    given = splits()
    original, retrained = _minimiser(given.train), _minimiser(given.retain)

    def left(**changes: Any) -> float:
        config = _config(**{"l2": L2, "damping": 1e-10, **changes})
        return _distance(influence(original, given, config, around=around()).model, retrained)

    assert left() < min(left(scale=0.5), left(scale=2.0), left(l2=0.0, damping=L2), left(damping=0.1))


def test_on_a_quadratic_the_same_step_is_refitting() -> None:
    """Ridge regression: its Hessian does not depend on the weights, so that one step is all."""
    x, y, kept = _normal(40, 5, seed=0), _normal(40, seed=1), torch.arange(40) >= 6

    def fitted(x: Tensor, y: Tensor) -> Tensor:
        solved: Tensor = torch.linalg.solve(x.T @ x / len(x) + L2 * torch.eye(5, dtype=torch.float64), x.T @ y / len(x))
        return solved

    w, gone = fitted(x, y), ~kept
    pull = x[gone].T @ (x[gone] @ w - y[gone]) + 6 * L2 * w
    step = conjugate_gradient(
        lambda v: x[kept].T @ (x[kept] @ v) / 34 + L2 * v, pull / 34, iterations=50, tolerance=1e-12
    )
    torch.testing.assert_close(w + step.x, fitted(x[kept], y[kept]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [7, 1000])
def test_the_product_with_the_hessian_is_autograds_whatever_the_chunk(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_linear, "ROWS", rows)
    x, labels = _normal(30, 5, seed=0), torch.arange(30) % 4
    w, v = _normal(4, 5, seed=1), _normal(4, 5, seed=2)
    expected = hvp(lambda w: cross_entropy(x @ w.T, labels), w, v)[1]  # type: ignore[no-untyped-call]
    found = last_linear.hessian_times(x, (x @ w.T).softmax(1), v)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_the_summed_gradient_is_autograds() -> None:
    parent, given = net(), splits()
    layer = last_linear.last_linear(parent)
    loss = DoubleTask().per_sample_loss(parent, given.forget.images, given.forget.labels).sum()
    g_weight, g_bias = torch.autograd.grad(loss, (layer.weight, layer.bias))
    read = last_linear.read_by(layer, parent, given.forget, DoubleTask())
    found = last_linear.summed_gradient(read, given.forget.labels, DoubleTask())
    torch.testing.assert_close(found, torch.cat([g_weight, g_bias[:, None]], 1))


def test_a_scale_of_zero_changes_nothing() -> None:
    for parent in (net(), net(norm=True), net().float()):
        task = None if parent[1].weight.dtype == torch.float64 else digits().around().task
        assert equal(influence(parent, splits(), _config(scale=0.0), around=around(task=task)).model, parent)


@pytest.mark.parametrize("parent", [net(norm=True, drop=True), conv_net(norm=True)])
def test_all_but_the_last_layer_stays_bit_for_bit(parent: nn.Module) -> None:
    last = f"{len(list(parent.children())) - 1}."
    found = influence(parent, splits(), _config(), around=around()).model.state_dict()
    for name, value in parent.state_dict().items():
        assert torch.equal(found[name], value) is not name.startswith(last)


def test_a_layer_without_bias_is_moved_as_one_with() -> None:
    given, parent = splits(), nn.Sequential(nn.Flatten(), nn.Linear(9, 3, bias=False)).double().eval()
    result = influence(parent, given, _config(l2=0.0, damping=0.05), around=around())
    (w,) = layers_of(parent)
    x, lost = _inputs(given.retain), _inputs(given.forget)
    pull = _slopes(lost @ w.T, given.forget).T @ lost
    damped = _hessian(x, softmax(x @ w.T)) + 0.05 * np.eye(27)
    step = np.linalg.solve(damped, pull.ravel() / len(x)).reshape(3, 9)
    assert_weights(result.model, [w + step])


def test_the_retain_set_is_read_and_its_absence_a_verdict_the_ladder_knows() -> None:
    with pytest.raises(RetainSetGoneError):
        influence(net(), without_retain_data(splits()), _config(), around=around())


def test_the_labels_of_the_retain_set_are_not_needed() -> None:
    given = splits()
    labels = given.train.labels.clone()
    labels[given.retain_index] = (labels[given.retain_index] + 1) % 3
    train = LabelledSet(images=given.train.images, labels=labels)
    other = UnlearningSplits(train=train, forget_index=given.forget_index, selection=given.selection)
    first, second = (influence(net(), each, _config(), around=around()) for each in (given, other))
    assert equal(first.model, second.model)


def test_every_scale_starts_from_the_original_weights_gentlest_first() -> None:
    both = influence(net(), splits(), _config(scale=None, scales=(4.0, 1.0)), around=around())
    assert [row["objectives"]["scale"] for row in both.history[1:]] == both.selection["grid"] == [1.0, 4.0]
    alone = influence(net(), splits(), _config(scale=both.selection["scale"]), around=around())
    assert equal(both.model, alone.model)


def test_a_step_that_was_not_solved_for_says_so() -> None:
    result = influence(net(), splits(), _config(iterations=1, damping=1e-4), around=around())
    assert result.selection["solved"]["iterations"] == 1
    assert result.selection["solved"]["residual"] > 0.01


@pytest.mark.parametrize(
    ("options", "recipe", "expected"),
    [
        ({}, {"weight_decay": 0.03}, 0.03),
        ({}, {"weight_decay": 0.03, "optimizer": "adam"}, 0.03),
        ({}, {"weight_decay": 0.03, "optimizer": "adamw"}, 0.0),
        ({"l2": 0.2}, {"weight_decay": 0.03, "optimizer": "adamw"}, 0.2),
    ],
)
def test_the_penalty_is_the_recipes_unless_named(
    options: dict[str, Any], recipe: dict[str, Any], expected: float
) -> None:
    assert l2_of(InfluenceConfig(**options), Recipe(**recipe)) == expected


class _TwoHeads(nn.Module):
    """Registers last what it does not apply."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(9, 3), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), r"0 \(Conv2d\), is not Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.LayerNorm(3)), r"2 \(LayerNorm\), is not Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.Softmax(1)), r"1 \(Linear\), gives"),
        (_TwoHeads(), r"unused \(Linear\), gives"),
    ],
)
def test_a_net_that_does_not_end_in_a_linear_layer_is_refused_with_that_layers_name(
    model: nn.Module, told: str
) -> None:
    before = copy.deepcopy(model)
    with pytest.raises(UnlearningError, match=told):
        influence(model.double(), splits(), _config(), around=around())
    assert equal(model, before.double())


def test_a_run_is_sound_and_draws_nothing() -> None:
    assert_a_sound_run(influence, InfluenceConfig(), draws=False)


@pytest.mark.parametrize(
    "wrong",
    [{"damping": 0.0}, {"damping": -1.0}, {"iterations": 0}, {"tolerance": 0.0}, {"scale": -1.0}, {"scales": ()},
     {"scales": (0.0,)}, {"l2": -0.1}],
)  # fmt: skip
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InfluenceConfig.model_validate(wrong)


def _on_digits(given: UnlearningSplits, **changes: Any) -> UnlearningResult:
    known = digits()
    return influence(known.parent, given, InfluenceConfig(**changes), around=known.around(drop=0.05))


def test_a_trained_net_forgets_a_class_and_keeps_its_accuracy() -> None:
    result = _on_digits(digits().of_class(3))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] >= 0.98
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_the_papers_step_alone_leaves_a_small_nets_class_known() -> None:
    assert _on_digits(digits().of_class(3), scale=1.0).history[1]["forget_error"] < 0.1


def test_random_samples_come_to_be_as_hard_as_unseen_ones() -> None:
    result = _on_digits(digits().at_random(90))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_loss"] < 0.7 * start["reference_loss"]
    assert taken["forget_loss"] > taken["reference_loss"]
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.02
