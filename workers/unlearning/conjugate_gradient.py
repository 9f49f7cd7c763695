"""Solve A x = b where A is known by its products alone: conjugate gradient, Hestenes & Stiefel 1952."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.unlearning.interface import UnlearningError


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Hold x, of b's shape; `residual` is ||b - A x|| / ||b||, computed from x, or 0 for b = 0."""

    x: Tensor
    residual: float
    iterations: int


def conjugate_gradient(times: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float) -> Solution:
    """Solve A x = b, A symmetric and positive definite, `times(v)` its product with v of b's shape.

    Ends once the relative residual is at most `tolerance`, or after `iterations`. Raises UnlearningError where b is not
    finite, and where a curvature v A v met on the way is not positive or not a number.
    """
    if not bool(torch.isfinite(b).all()):
        raise UnlearningError("the gradient of the forget set is not finite, so there is no step to take")
    x, r, v = torch.zeros_like(b), b.clone(), b.clone()
    size = float(b.norm())
    squared, done = float(r.square().sum()), 0
    while done < iterations and squared > (tolerance * size) ** 2:
        product = times(v)
        curvature = float((v * product).sum())
        if not 0 < curvature < float("inf"):
            raise UnlearningError(
                f"the curvature along a search direction is {curvature}, not positive: the system has no minimum; "
                "take a larger damping"
            )
        step = squared / curvature
        x, r = x + step * v, r - step * product
        before, squared = squared, float(r.square().sum())
        v, done = r + squared / before * v, done + 1
    # r drifts from b - A x by rounding
    residual = float((b - times(x)).norm()) / size if size else 0.0
    return Solution(x=x, residual=residual, iterations=done)
