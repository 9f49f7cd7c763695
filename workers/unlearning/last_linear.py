"""A network's last layer as softmax regression on fixed features, whose Hessian has a closed form.

x: features (N, D), what the layer reads, with a column of ones where it has a bias. W: its weights (K, D), the bias
as last column. z = x W^T: logits (N, K). p = softmax(z). For the mean cross-entropy, and any V of W's shape:

    gradient per sample   g_n = (p_n - onehot_n) x_n^T
    H V                   = (1/N) (p * (u - sum_k p_k u_k))^T x,   u = x V^T         two products of matrices
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.classification import PREDICT_BATCH, Classification, evaluating
from workers.samples import LabelledSet
from workers.unlearning.interface import UnlearningError
from workers.unlearning.last_layers import layers_of

ROWS = 16_384
"""Samples whose logits are held at once in a product with the Hessian."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Read:
    """What the last layer reads of a set, and what it answers: x (N, D) and z (N, K), both float64."""

    x: Tensor
    z: Tensor


def last_linear(model: nn.Module) -> nn.Linear:
    """Return the last layer; raise UnlearningError, which names it, where it is not Linear."""
    layer = layers_of(model)[-1]
    if not isinstance(layer, nn.Linear):
        raise UnlearningError(f"the network's last layer, {_named(model, layer)}, is not Linear; choose another method")
    return layer


def read_by(layer: nn.Linear, model: nn.Module, samples: LabelledSet, task: Classification) -> Read:
    """Return x and z over `samples` in eval mode; one pass. Raises UnlearningError unless z is what the net answers."""
    met: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda _layer, given, answer: met.append((given[0], answer)))
    try:
        with evaluating(model):
            batches = torch.split(samples.images, PREDICT_BATCH)
            logits = [task.logits(model, images) for images in batches]
    finally:
        hook.remove()
    if len(met) != len(logits) or not all(torch.equal(z, said) for (_, z), said in zip(met, logits, strict=True)):
        raise UnlearningError(
            f"the network's answer is not what its last layer, {_named(model, layer)}, gives; choose another method"
        )
    x = torch.cat([given for given, _ in met]).double()
    ones = [x.new_ones(len(x), 1)] if layer.bias is not None else []
    return Read(x=torch.cat([x, *ones], 1), z=torch.cat(logits).double())


def summed_gradient(read: Read, labels: Tensor, task: Classification) -> Tensor:
    """Return the sum over samples of the loss's gradient in W, (K, D)."""
    with torch.enable_grad():
        z = read.z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(task.loss_of_logits(z, labels).sum(), z)
    return slope.T @ read.x


def hessian_times(x: Tensor, p: Tensor, v: Tensor) -> Tensor:
    """Return H v for the mean cross-entropy over features x (N, D) of shares p (N, K); v and H v are (K, D)."""
    total = torch.zeros_like(v)
    for rows, shares in zip(torch.split(x, ROWS), torch.split(p, ROWS), strict=True):
        u = rows @ v.T
        total += (shares * (u - (shares * u).sum(1, keepdim=True))).T @ rows
    return total / len(x)


def weights_of(layer: nn.Linear) -> Tensor:
    """Return a copy of W, (K, D), float64."""
    parts = [layer.weight] if layer.bias is None else [layer.weight, layer.bias[:, None]]
    return torch.cat([part.detach().double() for part in parts], 1)


@torch.no_grad()
def set_weights(layer: nn.Linear, w: Tensor) -> None:
    """Give the layer the weights W, (K, D)."""
    layer.weight.copy_(w[:, : layer.in_features])
    if layer.bias is not None:
        layer.bias.copy_(w[:, -1])


def _named(model: nn.Module, layer: nn.Module) -> str:
    name = next(name for name, module in model.named_modules() if module is layer)
    return f"{name or 'the network itself'} ({type(layer).__name__})"
