"""DELETE: its step against a formula written anew in float64, its laws, and that it reads one set alone."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as given_that
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from service.catalogue.methods import DeleteConfig
from tests.method_cases import around, digits, equal, net, splits, with_other_images, without_retain_data
from workers.classification import Classification
from workers.unlearning.delete import delete, deleting_epochs, divergence, log_others
from workers.unlearning.interface import UnlearningResult, UnlearningSplits


def _config(**changes: Any) -> DeleteConfig:
    return DeleteConfig(**{"batch_size": 4, "epochs": 3, "lr": 0.05, **changes})


def _run(model: nn.Module, given: UnlearningSplits | None = None, *, seed: int = 0, **changes: Any) -> UnlearningResult:
    return delete(model, given or splits(), _config(**changes), around=around(seed))


def test_one_step_equals_the_formula() -> None:
    given, student = splits(), net()
    w = [each.detach().numpy().copy() for each in student.parameters()]
    x, c = given.forget.images.numpy().reshape(len(given.forget), -1) / 127.5 - 1, given.forget.labels.numpy()
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    odds = np.exp(h2 @ w[4].T + w[5])
    others = odds * (1 - np.eye(3)[c])
    q = others / others.sum(1, keepdims=True)
    # KL(q || softmax(s)) = const - sum q s + logsumexp(s), so that its slope is softmax(s) - q
    pull = (odds / odds.sum(1, keepdims=True) - q) / len(x)
    back = (pull @ w[4]) * (1 - h2**2)
    first = (back @ w[2]) * (1 - h1**2)
    slopes = [first.T @ x, first.sum(0), back.T @ h1, back.sum(0), pull.T @ h2, pull.sum(0)]
    config = _config(epochs=1, batch_size=64, momentum=0.0, optimizer="sgd")
    (met,) = deleting_epochs(student, given, config, around())
    # at the start softmax(s) = softmax(t), of which q lacks the true class: KL = -log(1 - p_c)
    assert met["divergence"] == pytest.approx(-np.log(others.sum(1) / odds.sum(1)).mean(), rel=1e-6)
    for found, theta, slope in zip(student.parameters(), w, slopes, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), theta - 0.05 * slope, rtol=1e-6, atol=1e-9)


LOGITS = st.lists(st.floats(-200, 200), min_size=4, max_size=4)


@given_that(t=LOGITS, c=st.integers(0, 3))
def test_the_target_lacks_the_true_class_and_keeps_the_odds_of_the_others(t: list[float], c: int) -> None:
    logits = torch.tensor([t], dtype=torch.float64)
    log_q = log_others(logits, torch.tensor([c]))[0]
    assert float(log_q.exp().sum()) == pytest.approx(1.0)
    assert log_q.exp()[c] == 0
    a, b = [k for k in range(4) if k != c][:2]
    assert float(log_q[a] - log_q[b]) == pytest.approx(t[a] - t[b], abs=1e-9)


@given_that(t=LOGITS, s=LOGITS, c=st.integers(0, 3))
def test_the_divergence_is_finite_never_negative_and_pulls_the_true_logit_down(
    t: list[float], s: list[float], c: int
) -> None:
    log_q = log_others(torch.tensor([t], dtype=torch.float64), torch.tensor([c]))
    student = torch.tensor([s], dtype=torch.float64, requires_grad=True)
    value = divergence(log_q, student).sum()
    (slope,) = torch.autograd.grad(value, student)
    assert float(value.detach()) >= -1e-9
    assert bool(torch.isfinite(slope).all())
    assert float(slope[0, c]) >= 0


def test_it_is_zero_where_the_student_says_what_is_asked() -> None:
    t = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.float64)
    log_q = log_others(t, torch.tensor([0]))
    asked = torch.cat([torch.full((1, 1), -1e4, dtype=torch.float64), log_q[:, 1:]], 1)
    assert float(divergence(log_q, asked)) == pytest.approx(0.0, abs=1e-12)


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
    first, again, other = (_run(net(norm=True), seed=seed).model for seed in (1, 1, 2))
    assert equal(first, again)
    assert not equal(first, other)


def test_no_retain_sample_is_read() -> None:
    given = splits()
    first = _run(net(), given)
    second = _run(net(), with_other_images(given, given.retain_index))
    gone = _run(net(), without_retain_data(given))
    assert equal(first.model, second.model)
    assert equal(first.model, gone.model)
    assert first.history == gone.history


def test_the_originals_logits_are_computed_once() -> None:
    passes: list[int] = []

    class Counting(Classification):
        def predict(self, model: nn.Module, samples: Any, batch_size: int = 512) -> Tensor:
            passes.append(len(samples))
            return super().predict(model, samples, batch_size)

    list(deleting_epochs(net().float(), splits(), _config(), around(task=Counting())))
    assert passes == [12]


@pytest.mark.parametrize("pool", [True, False])
def test_a_net_that_knows_digits_forgets_a_class_with_the_retain_data_gone(*, pool: bool) -> None:
    known, task = digits(), Classification()
    given = known.of_class(3)
    result = delete(known.parent, without_retain_data(given, pool=pool), DeleteConfig(), around=known.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert start["forget_error"] < 0.02
    assert taken["forget_error"] >= 0.98
    assert task.accuracy(task.predict(result.model, given.retain), given.retain.labels) > 0.9


def test_a_net_that_knows_digits_loses_some_of_a_random_set() -> None:
    known = digits()
    result = delete(known.parent, known.at_random(60), DeleteConfig(), around=known.around())
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] > start["forget_loss"]
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.02


def test_the_papers_preset_fills_in_and_named_options_win() -> None:
    paper = DeleteConfig.model_validate({"preset": "paper", "epochs": 4})
    assert (paper.epochs, paper.lr, paper.optimizer) == (4, 1e-4, "sgd")


@pytest.mark.parametrize(
    "option", [{"lr": 0}, {"momentum": 1}, {"epochs": 0}, {"batch_size": 0}, {"optimizer": "lion"}]
)
def test_options_out_of_bounds_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeleteConfig(**option)
