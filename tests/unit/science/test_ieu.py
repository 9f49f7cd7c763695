"""IEU: its step against a formula written anew in float64, what each ingredient may move, and what it reads."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from service.catalogue.methods import FinetuneConfig, IeuConfig
from tests.method_cases import FORGET, around, digits, equal, net, splits, with_other_images
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.unlearning.finetune import finetune, finetuning_epochs
from workers.unlearning.ieu import Elimination, ieu
from workers.unlearning.interface import UnlearningResult, UnlearningSplits

Floats = NDArray[np.float64]
PLAIN: dict[str, Any] = {"momentum": 0.0, "decay": 0.0, "noise": 0.0}


def _config(**changes: Any) -> IeuConfig:
    given = {"epochs": 2, "tail_epochs": 1, "lr": 0.05, "retain_batch_size": 16, "forget_batch_size": 8, **changes}
    return IeuConfig(**given)


def _run(model: nn.Module, given: UnlearningSplits | None = None, *, seed: int = 0, **changes: Any) -> UnlearningResult:
    return ieu(model, given or splits(), _config(**changes), around=around(seed))


def _cross_entropy(w: list[Floats], samples: LabelledSet) -> tuple[float, list[Floats]]:
    """Return the mean cross-entropy of Linear-tanh-Linear-tanh-Linear and its slopes, by hand."""
    x = samples.images.numpy().reshape(len(samples), -1) / 127.5 - 1
    truth = np.eye(3)[samples.labels.numpy()]
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    odds = np.exp(h2 @ w[4].T + w[5])
    p = odds / odds.sum(1, keepdims=True)
    pull = (p - truth) / len(x)
    back = (pull @ w[4]) * (1 - h2**2)
    first = (back @ w[2]) * (1 - h1**2)
    slopes = [first.T @ x, first.sum(0), back.T @ h1, back.sum(0), pull.T @ h2, pull.sum(0)]
    return float(-np.log((p * truth).sum(1)).mean()), slopes


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("cap", [50.0, 1e-3])
def test_one_step_equals_the_formula(alpha: float, cap: float) -> None:
    given, student = splits(), net()
    w = [each.detach().numpy().copy() for each in student.parameters()]
    config = _config(alpha=alpha, cap=cap, decay=0.3, noise=0.1, momentum=0.0, forget_batch_size=64)
    elimination = Elimination(student, given, config, around(6))
    L_r, L_f = elimination.step(given.retain, rate=0.2, alpha=alpha, s=0.1)
    kept, degraded = _cross_entropy(w, given.retain), _cross_entropy(w, given.forget)
    assert float(L_r) == pytest.approx(kept[0])
    assert float(L_f) == pytest.approx(degraded[0] if alpha else 0.0)
    source = generator_for(6)
    if alpha:
        torch.randperm(FORGET, generator=source)
    for found, theta, g_r, g_f in zip(student.parameters(), w, kept[1], degraded[1], strict=True):
        wanted = theta - 0.2 * (g_r - alpha * g_f * (degraded[0] < cap))
        if theta.ndim == 2:
            xi = torch.randn(theta.shape, generator=source, dtype=torch.float64).numpy()
            wanted = wanted - 0.2 * 0.3 * theta + 0.1 * np.sqrt(np.mean(theta**2)) * xi
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_the_cap_is_the_log_of_the_number_of_classes_unless_named() -> None:
    confident = net()
    with torch.no_grad():
        confident.get_parameter("5.weight").mul_(1e3)

    def moved(**changes: Any) -> bool:
        student = copy.deepcopy(confident)
        elimination = Elimination(student, splits(), _config(**PLAIN, **changes), around())
        _, L_f = elimination.step(splits().retain, rate=0.1, alpha=1.0, s=0.0)
        assert float(L_f) > math.log(3)
        without = copy.deepcopy(confident)
        Elimination(without, splits(), _config(**PLAIN), around()).step(splits().retain, rate=0.1, alpha=0.0, s=0.0)
        return not equal(student, without)

    assert not moved()
    assert moved(cap=1e6)


@pytest.mark.parametrize("norm", [False, True])
def test_without_its_ingredients_it_is_fine_tuning(*, norm: bool) -> None:
    plain = FinetuneConfig(epochs=3, lr=0.05, momentum=0.9, weight_decay=0.0, batch_size=16)
    same = finetune(net(norm=norm), splits(), plain, around=around(4))
    result = _run(net(norm=norm), seed=4, alpha=0.0, decay=0.0, noise=0.0, momentum=0.9, epochs=3, tail_epochs=0)
    found = [row["forget_loss"] for row in result.history]
    assert found == [row["forget_loss"] for row in same.history]
    last = _run(net(norm=norm), seed=4, alpha=0.0, decay=0.0, noise=0.0, momentum=0.9, epochs=0, tail_epochs=1)
    assert found[1] != last.history[1]["forget_loss"], "the tail's rate falls"


@pytest.mark.parametrize("ingredient", [{"noise": 0.5}, {"decay": 0.5}])
def test_noise_and_decay_leave_biases_and_norm_layers_alone(ingredient: dict[str, float]) -> None:
    def stepped(**changes: Any) -> nn.Module:
        student = net(norm=True)
        Elimination(student, splits(), _config(**{**PLAIN, **changes}), around()).step(
            splits().retain, rate=0.1, alpha=0.0, s=changes.get("noise", 0.0)
        )
        return student

    plain, changed = stepped(), stepped(**ingredient)
    differing = {name for name, w in changed.named_parameters() if not torch.equal(w, plain.get_parameter(name))}
    assert differing == {"1.weight", "4.weight", "6.weight"}
    assert all(torch.equal(value, plain.get_buffer(name)) for name, value in changed.named_buffers())


def test_the_tail_reads_the_retain_set_alone_without_noise_at_a_falling_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[float, float, float]] = []
    step = Elimination.step

    def noting(self: Elimination, retain: LabelledSet, *, rate: float, alpha: float, s: float) -> tuple[Tensor, Tensor]:
        taken.append((rate, alpha, s))
        return step(self, retain, rate=rate, alpha=alpha, s=s)

    monkeypatch.setattr(Elimination, "step", noting)
    result = _run(net(), alpha=0.2, noise=0.01, epochs=2, tail_epochs=2)
    assert taken[:6] == [(0.05, 0.2, 0.01)] * 6
    rates = [0.05 * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert [rate for rate, _, _ in taken[6:]] == pytest.approx(rates)
    assert {(alpha, s) for _, alpha, s in taken[6:]} == {(0.0, 0.0)}
    assert ["forget_loss" in row["objectives"] for row in result.history[1:]] == [True, True, False, False]
    assert result.selection["epoch"] > 2


def test_no_statistic_of_the_forget_set_enters_a_buffer() -> None:
    given = splits()

    def buffers(changed: UnlearningSplits) -> list[Tensor]:
        student = net(norm=True)
        Elimination(student, changed, _config(), around()).step(given.retain, rate=0.1, alpha=0.5, s=0.0)
        return [value for name, value in student.named_buffers()]

    assert all(map(torch.equal, buffers(given), buffers(with_other_images(given, given.forget_index))))


def test_without_alpha_the_forget_set_is_never_read_but_to_be_measured() -> None:
    given = splits()
    first = _run(net(norm=True), given, alpha=0.0)
    second = _run(net(norm=True), with_other_images(given, given.forget_index), alpha=0.0)
    # the measurements differ, so that another epoch may be taken; the weights of each are the same
    assert [row["selection_loss"] for row in first.history] == [row["selection_loss"] for row in second.history]


def test_forget_batches_are_cycled_and_each_sample_comes_once_a_pass() -> None:
    elimination = Elimination(net(), splits(), _config(forget_batch_size=5), around())
    seen: list[int] = []
    while len(seen) < 3 * FORGET:
        seen += next(elimination.forget_batches).tolist()
    assert torch.bincount(torch.tensor(seen)).tolist() == [3] * FORGET


@pytest.mark.parametrize("norm", [False, True])
def test_the_parent_stays_the_seed_repeats_and_another_differs(*, norm: bool) -> None:
    parent = net(norm=norm)
    before = copy.deepcopy(parent)
    first, again, other = (_run(parent, seed=seed).model for seed in (1, 1, 2))
    assert equal(parent, before)
    assert all(w.grad is None for w in parent.parameters())
    assert equal(first, again)
    assert not equal(first, other)
    assert not first.training


def test_a_net_that_knows_digits_forgets_and_keeps_its_accuracy() -> None:
    known = digits()
    result = ieu(known.parent, known.at_random(60), IeuConfig(), around=known.around(drop=0.05))
    start, taken = result.history[0], result.history[result.selection["epoch"]]
    assert taken["forget_loss"] > start["forget_loss"] + 0.03
    assert taken["selection_accuracy"] >= start["selection_accuracy"] - 0.05


def test_neither_epochs_nor_a_tail_is_refused() -> None:
    with pytest.raises(ValidationError, match="epochs"):
        IeuConfig(epochs=0, tail_epochs=0)


@pytest.mark.parametrize(
    "option", [{"alpha": -0.1}, {"cap": 0}, {"decay": -1}, {"noise": -1}, {"epochs": -1}, {"retain_batch_size": 1}]
)
def test_options_out_of_bounds_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IeuConfig(**option)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_without_its_ingredients_it_is_fine_tuning_by_the_recipes_optimiser_too(optimizer: str) -> None:
    common = {"optimizer": optimizer, "momentum": 0.9, "lr": 0.01}
    plain = {"alpha": 0.0, "decay": 0.0, "noise": 0.0, "epochs": 2, "tail_epochs": 0, "retain_batch_size": 16}
    ours, theirs = net(), net()
    list(Elimination(ours, splits(), IeuConfig(**{**common, **plain}), around()).run())
    config = FinetuneConfig(**{**common, "weight_decay": 0.0, "epochs": 2, "batch_size": 16})
    list(finetuning_epochs(theirs, splits(), config, around()))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
