"""MU-Mis: its step against finite differences of a formula written anew, its laws, and that it reads one set alone."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from service.catalogue.methods import MuMisConfig
from tests.method_cases import (
    FORGET,
    DoubleTask,
    around,
    digits,
    equal,
    net,
    splits,
    with_other_images,
    without_retain_data,
)
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import normalise
from workers.unlearning.double_backward import NoDoubleBackwardError
from workers.unlearning.interface import UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.mu_mis import Descent, mu_mis, other_classes, sensitivity_gap

Floats = NDArray[np.float64]


def _config(**changes: Any) -> MuMisConfig:
    return MuMisConfig(**{"batch_size": 64, "max_checks": 3, "last_layers": None, **changes})


def _run(model: nn.Module, given: UnlearningSplits | None = None, *, seed: int = 0, **changes: Any) -> UnlearningResult:
    return mu_mis(model, given or splits(), _config(**changes), around=around(seed))


def _slopes(w: list[Floats], x: Floats) -> Floats:
    """Return grad_x f, (N, K, 9), of Linear-tanh-Linear-tanh-Linear by the chain rule."""
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    first = (1 - h1**2)[:, :, None] * w[0]
    second: Floats = (1 - h2**2)[:, :, None] * np.einsum("ij,njd->nid", w[2], first)
    slopes: Floats = np.einsum("ki,nid->nkd", w[4], second)
    return slopes


def _objective(w: list[Floats], x: Floats, c: NDArray[np.int64]) -> float:
    """Return the mean of ||grad f_c||^2 - ||grad f_c'||^2 where c' can only be the other of two classes."""
    squared = (_slopes(w, x) ** 2).sum(2)
    rows = np.arange(len(c))
    return float((squared[rows, c] - squared[rows, 1 - c]).mean())


def test_one_step_descends_the_formula() -> None:
    given, parent = splits(classes=2), net(classes=2)
    x, c = given.forget.images.numpy().reshape(FORGET, -1) / 127.5 - 1, given.forget.labels.numpy()
    before = [w.detach().numpy().copy() for w in parent.parameters()]
    student = copy.deepcopy(parent)
    config = _config(lr=0.03, growth=100.0, check_steps=1)
    moved = next(Descent(student, given.forget, config, around()).checks())
    assert moved["loss"] == pytest.approx(_objective(before, x, c), rel=1e-6)
    for position, found in enumerate(w.detach() for w in student.parameters()):
        for at in np.ndindex(*found.shape):
            slope = _central_difference(before, position, at, x, c)
            assert float(found[at]) == pytest.approx(before[position][at] - 0.03 * slope, rel=1e-5, abs=1e-8)


def _central_difference(
    w: list[Floats], position: int, at: tuple[int, ...], x: Floats, c: NDArray[np.int64], h: float = 1e-5
) -> float:
    values = []
    for sign in (1, -1):
        shifted = [each.copy() for each in w]
        shifted[position][at] += sign * h
        values.append(_objective(shifted, x, c))
    return (values[0] - values[1]) / (2 * h)


def test_of_a_linear_model_the_gap_is_that_of_the_squared_norms_of_its_rows() -> None:
    layer = nn.Linear(9, 3)
    linear = nn.Sequential(nn.Flatten(), layer).double()
    rows = layer.weight.detach().square().sum(1)
    forget = splits().forget
    c, c_other = forget.labels, (forget.labels + 2) % 3
    gap = sensitivity_gap(DoubleTask(), linear, forget.images, c, c_other)
    torch.testing.assert_close(gap, rows[c] - rows[c_other])


def test_the_sensitivity_that_is_watched_is_a_mean_of_norms_of_other_logits() -> None:
    given, model = splits(classes=2), net(classes=2)
    x = given.forget.images.numpy().reshape(FORGET, -1) / 127.5 - 1
    norms = np.linalg.norm(_slopes([w.detach().numpy() for w in model.parameters()], x), axis=2)
    others = norms[np.arange(FORGET), 1 - given.forget.labels.numpy()]
    assert Descent(model, given.forget, _config(lr=1.0), around()).sensitivity() == pytest.approx(
        others.mean(), rel=1e-6
    )


def test_the_other_class_is_never_the_true_one_and_all_others_come_up_alike() -> None:
    c = torch.arange(4).repeat(3000)
    drawn = other_classes(c, 4, generator_for(0))
    counts = torch.bincount(4 * c + drawn, minlength=16).view(4, 4)
    assert counts.diagonal().tolist() == [0] * 4
    assert counts[~torch.eye(4, dtype=torch.bool)].sub(1000).abs().max() < 120


def test_biases_of_a_relu_net_with_norm_in_eval_mode_have_a_slope_of_exactly_zero() -> None:
    parent = net(norm=True, act=nn.ReLU)
    result = _run(parent, lr=0.01, growth=10.0)
    for name, value in result.model.named_parameters():
        moved = not torch.equal(value, parent.get_parameter(name))
        assert moved != name.endswith("bias"), name


@pytest.mark.parametrize("norm", [False, True])
def test_the_parent_and_every_buffer_stay_and_dropout_is_off(*, norm: bool) -> None:
    parent = net(norm=norm, drop=True).train()
    before = copy.deepcopy(parent)
    result = _run(parent)
    assert equal(parent, before)
    assert all(w.grad is None for w in parent.parameters())
    assert all(torch.equal(value, parent.get_buffer(name)) for name, value in result.model.named_buffers())
    assert not any(module.training for module in result.model.modules())
    assert equal(result.model, _run(parent.eval()).model), "dropout would have drawn from torch's own generator"


def test_a_seed_repeats_bit_for_bit_and_another_differs() -> None:
    def model(seed: int) -> nn.Module:
        return _run(net(norm=True), seed=seed, batch_size=4).model

    assert equal(model(1), model(1))
    assert not equal(model(1), model(2))


def test_no_retain_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    given = splits()
    first = _run(net(), given)
    second = _run(net(), with_other_images(given, given.retain_index))
    gone = _run(net(), without_retain_data(given))
    assert equal(first.model, second.model)
    assert equal(first.model, gone.model)
    assert first.history == gone.history

    def touched(_: UnlearningSplits) -> None:
        raise AssertionError("the retain set was read")

    monkeypatch.setattr(UnlearningSplits, "retain", property(touched))
    _run(net(), splits())


def test_the_rate_is_halved_until_the_sensitivity_changes_gently() -> None:
    result = _run(net(), lr=50.0, growth=1.02, max_checks=6)
    rates = [row["objectives"]["lr"] for row in result.history[1:]]
    assert result.selection["search"]["halvings"] == round(math.log2(50.0 / rates[-1])) > 0
    assert rates == sorted(rates, reverse=True)
    r = [1.0, *(row["objectives"]["r"] for row in result.history[1:])]
    assert all(abs(math.log(b / a)) <= math.log(1.02) + 1e-12 for a, b in pairwise(r))


def test_steps_taken_back_leave_no_trace() -> None:
    given, student = splits(), net()
    before = copy.deepcopy(student)
    descent = Descent(student, given.forget, _config(lr=1e5, growth=1.01, max_halvings=2), around())
    assert list(descent.checks()) == []
    assert (descent.halvings, equal(student, before)) == (2, True)


def test_without_a_gentle_rate_the_attempt_fails() -> None:
    with pytest.raises(UnlearningError, match="no epoch was completed"):
        _run(net(), lr=1e5, growth=1.01, max_halvings=2)


def test_a_delta_that_is_named_stops_at_the_first_check_above_it_and_above_the_least() -> None:
    free = _run(net(), max_checks=30, first_move=0.02)
    r = [row["objectives"]["r"] for row in free.history[1:]]
    delta = 1.1
    expected = next(k for k in range(len(r)) if r[k] > delta and r[k] > min([1.0, *r[:k]]))
    stopped = _run(net(), max_checks=30, first_move=0.02, delta=delta)
    assert 0 < expected < len(r) - 1, "the case must not be trivial"
    assert len(stopped.history) == 2 + expected
    assert stopped.selection["epoch"] == 1 + expected


def test_a_net_without_any_slope_is_refused() -> None:
    dead = net()
    nn.init.zeros_(dead.get_parameter("5.weight"))
    with pytest.raises(UnlearningError, match="no usable slope"):
        _run(dead)


class _Once(torch.autograd.Function):
    """Square, with a backward pass that is marked as once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return 2 * x * slope


class _Using(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation, self.net = operation, net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.operation(x))  # type: ignore[no-any-return]


def _through_embedding_bag(x: Tensor) -> Tensor:
    rows = x.flatten(1)
    summed = nn.functional.embedding_bag(torch.arange(len(rows)), rows, torch.arange(len(rows)), mode="sum")
    return summed.view_as(x)


@pytest.mark.parametrize(("operation", "told"), [(_Once.apply, "_Once"), (_through_embedding_bag, "embedding_bag")])
def test_an_operation_without_double_backward_is_named_before_the_work(
    operation: Callable[[Tensor], Tensor], told: str
) -> None:
    with pytest.raises(NoDoubleBackwardError, match=rf"{told}.* cannot be differentiated twice"):
        _run(_Using(operation))


def test_a_vision_transformer_is_differentiated_twice() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = VisionTransformer(
            image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3, dropout=0.5
        ).eval()
        nn.init.normal_(vit.heads[-1].weight)
    given = splits(shape=(3, 8, 8))
    first, again = (mu_mis(vit, given, _config(), around=around(task=Classification())) for _ in range(2))
    assert equal(first.model, again.model)
    assert not equal(first.model, vit)


@pytest.mark.parametrize("pool", [True, False])
def test_a_net_that_knows_digits_forgets_a_class_with_the_retain_data_gone(*, pool: bool) -> None:
    known = digits()
    given = known.of_class(3)
    result = mu_mis(known.parent, without_retain_data(given, pool=pool), MuMisConfig(), around=known.around(drop=0.02))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] > 0.95
    task = Classification()
    assert task.accuracy(task.predict(result.model, given.retain), given.retain.labels) > 0.95


def test_a_run_for_a_class_ends_some_checks_after_it_is_forgotten() -> None:
    known = digits()
    given = known.of_class(3)
    around = known.around(drop=0.5)
    result = mu_mis(known.parent, given, MuMisConfig(last_layers=None, growth=1.5), around=around)
    forgotten = [row["epoch"] for row in result.history[1:] if row["forget_error"] >= 0.98]
    assert len(forgotten) == 4
    assert result.history[-1]["epoch"] == forgotten[-1] < MuMisConfig().max_checks


@pytest.mark.parametrize("last", [1, 2, 9])
def test_only_the_last_layers_move(last: int) -> None:
    parent = net()
    moved = _run(parent, last_layers=last).model
    same = [torch.equal(a, b) for a, b in zip(parent.parameters(), moved.parameters(), strict=True)]
    still = 2 * max(0, 3 - last)
    assert same[:still] == [True] * still
    assert not any(same[still : still + 1]), "the first layer that moves does"


def test_a_net_that_knows_digits_loses_some_of_a_random_set() -> None:
    known = digits()
    result = mu_mis(known.parent, known.at_random(60), MuMisConfig(max_checks=8), around=known.around())
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] > start["forget_loss"]
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.02


@pytest.mark.parametrize(
    "option", [{"growth": 1.0}, {"lr": 0.0}, {"delta": 1.0}, {"first_move": 0.0}, {"batch_size": 0}, {"max_checks": 0}]
)
def test_options_out_of_bounds_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MuMisConfig(**option)


def test_pixels_reach_the_network_in_minus_one_to_one() -> None:
    images = splits().forget.images
    torch.testing.assert_close(Classification().inputs(images), normalise(images))
