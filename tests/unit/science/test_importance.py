"""Diagonal importance: the mean size of per-sample gradients, whatever the chunks."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.method_cases import DoubleTask, net, samples
from tests.method_formulas import Layers, backward, cross_entropy_slope, forward, inputs_of, layers_of
from workers.architectures import build
from workers.classification import Classification
from workers.samples import LabelledSet
from workers.unlearning.importance import LOSS, OUTPUT, chunk_size, diagonal_importance, pooled


def _by_hand(w: Layers, given: LabelledSet, *, output: bool = False) -> Layers:
    """Take the mean of every sample's squared gradient of the loss, or size of its gradient of the output's norm."""
    slopes = 2 * forward(w, inputs_of(given))[2] if output else cross_entropy_slope(w, given)
    rows = [backward(w, inputs_of(given)[i : i + 1], slopes[i : i + 1]) for i in range(len(given))]
    return [np.mean([abs(row[k]) if output else row[k] ** 2 for row in rows], 0) for k in range(len(w))]


@pytest.mark.parametrize("output", [False, True])
def test_importance_is_the_mean_over_samples_of_the_size_of_the_gradient(*, output: bool) -> None:
    given, student = samples(10, 0), net()
    found = diagonal_importance(student, given, DoubleTask(), score=OUTPUT if output else LOSS)
    for f, wanted in zip(found.values(), _by_hand(layers_of(student), given, output=output), strict=True):
        np.testing.assert_allclose(f.numpy(), wanted, rtol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_trap_the_importance_does_not_depend_on_the_batch_size(*, norm: bool) -> None:
    given, student = samples(20, 0), net(norm=norm)
    found = [diagonal_importance(student, given, DoubleTask(), chunk=chunk) for chunk in (1, 7, 20)]
    for name in found[0]:
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(found[2][name], found[0][name], rtol=1e-9, atol=1e-15)
    loss = DoubleTask().per_sample_loss(student, given.images, given.labels).mean()
    of_the_mean = torch.autograd.grad(loss, list(student.parameters()))
    assert sum(float(g.square().sum()) for g in of_the_mean) < 0.5 * sum(float(f.sum()) for f in found[0].values())


def test_importance_is_taken_in_eval_mode_and_modes_buffers_and_gradients_stay() -> None:
    student, given = net(norm=True, drop=True), samples(10, 0)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    reference = diagonal_importance(student, given, DoubleTask())
    student.train()
    student[1].eval()
    again = diagonal_importance(student, given, DoubleTask())
    assert all(torch.equal(again[name], reference[name]) for name in reference)
    assert student.training
    assert not student[1].training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(w.grad is None for w in student.parameters())


def test_two_disjoint_sets_pool_to_the_importance_of_both() -> None:
    given, student = samples(20, 0), net()
    parts = [
        diagonal_importance(student, given.take(index), DoubleTask())
        for index in (torch.arange(6), torch.arange(6, 20))
    ]
    whole = diagonal_importance(student, given, DoubleTask())
    together = pooled(parts[0], 6, parts[1], 14)
    for name, f in whole.items():
        torch.testing.assert_close(together[name], f, rtol=1e-12, atol=0.0)


def test_a_smaller_budget_makes_smaller_chunks_and_never_none() -> None:
    student, example = net(), (torch.zeros(1, 1, 3, 3, dtype=torch.float64),)
    sizes = [chunk_size(DoubleTask(), student, example, budget) for budget in (1, 100_000, 1_000_000)]
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[2] > 5 * sizes[1] > 5
    weights = sum(w.numel() for w in student.parameters())
    assert sizes[1] <= 100_000 / (2 * 8 * weights)


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18"])
def test_registered_networks_have_an_importance_for_every_weight(architecture: str) -> None:
    options = {"width": 4} if architecture == "small_cnn" else {"stem": "small"}
    student: nn.Module = build(architecture, options, image_shape=(1, 8, 8), num_classes=3, seed=0)
    given = samples(3, 0, shape=(1, 8, 8))
    found = diagonal_importance(student, given, Classification())
    loss = Classification().per_sample_loss(student.eval(), given.images[:1], given.labels[:1]).sum()
    single = diagonal_importance(student, given.take(torch.tensor([0])), Classification())
    for (name, w), g in zip(
        student.named_parameters(), torch.autograd.grad(loss, list(student.parameters())), strict=True
    ):
        assert found[name].shape == w.shape
        torch.testing.assert_close(single[name].float(), g.square(), rtol=1e-3, atol=1e-9)
