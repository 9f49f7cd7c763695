"""The three-layer net of tests.method_cases written out in numpy, and what every method owes its caller."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tests.method_cases import around, equal, net, splits
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningResult

Floats = NDArray[np.float64]
Layers = list[Floats]


def layers_of(model: nn.Module) -> Layers:
    """Return copies of the weights, in order: a matrix and a bias per layer."""
    return [w.detach().numpy().copy() for w in model.parameters()]


def inputs_of(samples: LabelledSet) -> Floats:
    """Return what the net is given, (N, 9)."""
    scaled: Floats = samples.images.numpy().reshape(len(samples), -1) / 127.5 - 1
    return scaled


def forward(w: Layers, x: Floats) -> tuple[Floats, Floats, Floats]:
    """Return both hidden layers and the logits of the three-layer net, written out."""
    h1 = np.tanh(x @ w[0].T + w[1])
    h2 = np.tanh(h1 @ w[2].T + w[3])
    logits: Floats = h2 @ w[4].T + w[5]
    return h1, h2, logits


def backward(w: Layers, x: Floats, slope: Floats) -> Layers:
    """Carry the slope (N, 3) of an objective in the logits back to every weight of the three-layer net."""
    h1, h2, _ = forward(w, x)
    g2 = slope @ w[4] * (1 - h2**2)
    g1 = g2 @ w[2] * (1 - h1**2)
    return [g1.T @ x, g1.sum(0), g2.T @ h1, g2.sum(0), slope.T @ h2, slope.sum(0)]


def softmax(z: Floats) -> Floats:
    """Return the rows' softmax."""
    e: Floats = np.exp(z - z.max(1, keepdims=True))
    shares: Floats = e / e.sum(1, keepdims=True)
    return shares


def cross_entropy_slope(w: Layers, samples: LabelledSet) -> Floats:
    """Return softmax - onehot (N, 3): the slope of every sample's cross-entropy, not divided by N."""
    slope: Floats = softmax(forward(w, inputs_of(samples))[2]) - np.eye(3)[samples.labels.numpy()]
    return slope


def cross_entropies(w: Layers, samples: LabelledSet) -> Floats:
    """Return every sample's cross-entropy (N,)."""
    shares = softmax(forward(w, inputs_of(samples))[2])
    losses: Floats = -np.log(shares[np.arange(len(samples)), samples.labels.numpy()])
    return losses


def conv_slopes(w: Layers, samples: LabelledSet) -> Layers:
    """Return the slopes of the mean cross-entropy in the weights of tests.method_cases.conv_net, without norm."""
    kernel, bias, head, offset = w
    padded = np.pad(inputs_of(samples).reshape(-1, 3, 3), ((0, 0), (1, 1), (1, 1)))
    patches = np.stack([padded[:, a : a + 3, b : b + 3].reshape(-1, 9) for a in range(3) for b in range(3)], 1)
    hidden = np.tanh((patches @ kernel.reshape(4, 9).T + bias).swapaxes(1, 2))
    flat = hidden.reshape(len(samples), -1)
    pull = (softmax(flat @ head.T + offset) - np.eye(3)[samples.labels.numpy()]) / len(samples)
    back = (pull @ head).reshape(hidden.shape) * (1 - hidden**2)
    return [np.einsum("nop,npk->ok", back, patches).reshape(4, 1, 3, 3), back.sum((0, 2)), pull.T @ flat, pull.sum(0)]


def assert_weights(found_in: nn.Module, expected: Layers) -> None:
    """Compare weights; images reach the net through float32."""
    for found, wanted in zip(layers_of(found_in), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def assert_a_sound_run(
    method: Any, config: Any, *, parents: Sequence[nn.Module] | None = None, draws: bool = True
) -> None:
    """Check what every method owes: the parent stays, weights move, a seed repeats bit for bit, another differs.

    A method that draws nothing must give every seed the same.
    """
    for parent in parents or (net(), net(norm=True)):
        before = copy.deepcopy(parent)
        runs: list[UnlearningResult] = [method(parent, splits(), config, around=around(seed)) for seed in (1, 1, 2)]
        first, again, other = (run.model for run in runs)
        assert equal(parent, before)
        assert all(w.grad is None for w in parent.parameters())
        assert not any(module.training for module in (*first.modules(), *parent.modules()))
        assert not all(map(torch.equal, parent.parameters(), first.parameters()))
        assert equal(first, again)
        assert equal(first, other) is not draws
