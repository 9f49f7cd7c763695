"""Conjugate gradient: what it solves, what it says of what it could not, and what it refuses."""

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.reproducibility import generator_for
from workers.unlearning.conjugate_gradient import conjugate_gradient
from workers.unlearning.interface import UnlearningError


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator_for(seed))


def _definite(size: int) -> Tensor:
    root = _normal(size, size)
    return root @ root.T + torch.eye(size, dtype=torch.float64)


def test_it_solves_a_definite_system_whatever_the_shape_of_b() -> None:
    a, b = _definite(12), _normal(3, 4, seed=1)
    found = conjugate_gradient(lambda v: (a @ v.flatten()).view(3, 4), b, iterations=100, tolerance=1e-12)
    np.testing.assert_allclose(found.x.flatten(), np.linalg.solve(a.numpy(), b.flatten().numpy()), rtol=1e-8)
    assert found.residual <= 1e-10


def test_it_needs_no_more_steps_than_there_are_distinct_eigenvalues() -> None:
    a = torch.tensor([1.0, 1.0, 5.0, 5.0, 9.0], dtype=torch.float64)
    assert conjugate_gradient(lambda v: a * v, _normal(5), iterations=100, tolerance=1e-10).iterations == 3


def test_a_run_cut_short_states_the_residual_it_has() -> None:
    a, b = _definite(12), _normal(12, seed=1)
    found = conjugate_gradient(lambda v: a @ v, b, iterations=2, tolerance=1e-12)
    assert found.iterations == 2
    assert found.residual == pytest.approx(float((b - a @ found.x).norm() / b.norm()))
    assert found.residual > 1e-3


def test_nothing_on_the_right_gives_nothing() -> None:
    found = conjugate_gradient(lambda v: v, torch.zeros(4), iterations=9, tolerance=1e-6)
    assert (found.x.tolist(), found.residual, found.iterations) == ([0.0] * 4, 0.0, 0)


@pytest.mark.parametrize("factor", [-1.0, 0.0, float("nan")])
def test_a_curvature_that_is_not_positive_is_refused(factor: float) -> None:
    with pytest.raises(UnlearningError, match=r"not positive.*larger damping"):
        conjugate_gradient(lambda v: factor * v, torch.ones(4), iterations=9, tolerance=1e-6)


def test_a_right_side_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UnlearningError, match="not finite"):
        conjugate_gradient(lambda v: v, torch.tensor([1.0, torch.nan]), iterations=9, tolerance=1e-6)
