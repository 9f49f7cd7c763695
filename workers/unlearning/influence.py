"""Influence of the forget set on the last layer, taken back by one damped Newton step.

Guo et al., Certified Data Removal from Machine Learning Models, ICML 2020, arXiv:1911.03030; Izzo et al., Approximate
Data Deletion from Machine Learning Models, AISTATS 2021, arXiv:2002.10077. Both are of convex models; here it is the
last layer of a network, softmax regression on the features before it.

W: weights and bias of the last layer. l: a sample's cross-entropy. n_r, n_f: sizes of retain and forget set.
F(W; D) = mean over D of l(W) + (l2/2) |W|^2, what training minimises; its minimum over all data has

    sum over D_r of grad l + sum over D_f of grad l + (n_r + n_f) l2 W = 0,    so that there
    grad F(W; D_r) = (1/n_r) sum over D_r of grad l + l2 W = -(1/n_r) (sum over D_f of grad l + n_f l2 W)

and a Newton step towards the minimum over the retain set alone is, with a damping and a scale,

    W <- W + scale (H_r + (l2 + damping) I)^-1 (1/n_r) (sum over D_f of grad l + n_f l2 W)

H_r: the Hessian of the mean loss over the retain set. Solved by conjugate gradient on its products (last_linear.py),
on features computed once; one shot, nothing is drawn: every seed gives the same model.
Where this differs from the papers:
- The layers before the last are taken as they are: what they learned of the forget set stays. Norm layers and dropout
  are in eval mode, and no buffer moves.
- A network is seldom trained to the minimum that the formula starts from, so the step is an approximation; the
  damping keeps it short in directions of little curvature.
- No noise is added and nothing is certified: that takes a convex loss at its minimum.
- The scale is ours: each of a small grid is tried from the original weights, and the choice is made on the forget set
  and the selection pool. `scale` named is taken alone; 1 is the papers' step.
- The inverse is neither formed, as in the papers, nor estimated, as with WoodFisher (Singh & Alistarh, NeurIPS 2020,
  arXiv:2004.14340): the system is solved, and `selection` says to which residual.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from service.catalogue.methods import InfluenceConfig
from service.catalogue.recipe import Recipe
from workers.unlearning.conjugate_gradient import Solution, conjugate_gradient
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits, classifying
from workers.unlearning.last_linear import (
    hessian_times,
    last_linear,
    read_by,
    set_weights,
    summed_gradient,
    weights_of,
)
from workers.unlearning.selection import calibrate_on_unseen
from workers.unlearning.trajectory import Trajectory, follow


def influence(
    model: nn.Module, splits: UnlearningSplits, config: InfluenceConfig, *, around: Surroundings
) -> UnlearningResult:
    """Move a copy's last layer by the step; return the scale chosen. `selection` says how well the step was solved.

    Raises UnlearningError for a network that does not end in a linear layer, and for a curvature that is not positive.
    """
    started = time.perf_counter()
    moved = copy.deepcopy(model).eval()
    layer = last_linear(moved)
    trajectory = Trajectory(moved, splits, around)
    solution = newton_step(moved, layer, splits, config, around)
    scales = tuple(sorted(config.scales)) if config.scale is None else (config.scale,)
    verdict = follow(moved, candidates(layer, solution, scales, around), trajectory, 0)
    result = trajectory.result(moved, calibrate_on_unseen, verdict, started)
    solved = {"residual": solution.residual, "iterations": solution.iterations, "l2": l2_of(config, around.recipe)}
    chosen = scales[result.selection["epoch"] - 1]
    return replace(result, selection={**result.selection, "scale": chosen, "grid": [*scales], "solved": solved})


def newton_step(
    model: nn.Module, layer: nn.Linear, splits: UnlearningSplits, config: InfluenceConfig, around: Surroundings
) -> Solution:
    """Return the step in W at scale 1, and how well it was solved for."""
    l2, task = l2_of(config, around.recipe), classifying(around)
    retain, forget = (read_by(layer, model, part, task) for part in (splits.retain, splits.forget))
    p = retain.z.softmax(1)
    pull = summed_gradient(forget, splits.forget.labels, task) + len(splits.forget) * l2 * weights_of(layer)
    return conjugate_gradient(
        lambda v: hessian_times(retain.x, p, v) + (l2 + config.damping) * v,
        pull / len(splits.retain),
        iterations=config.iterations,
        tolerance=config.tolerance,
    )


def l2_of(config: InfluenceConfig, recipe: Recipe) -> float:
    """Return the L2 penalty of the objective; the decoupled decay of adamw is none."""
    if config.l2 is not None:
        return config.l2
    return 0.0 if recipe.optimizer == "adamw" else recipe.weight_decay


def candidates(
    layer: nn.Linear, solution: Solution, scales: tuple[float, ...], around: Surroundings
) -> Iterator[dict[str, float]]:
    """Set the layer to the original moved by each multiple of the step; yield it, its length and the residual."""
    original = weights_of(layer)
    for done, scale in enumerate(scales, start=1):
        set_weights(layer, original + scale * solution.x)
        around.progress("unlearn", done, len(scales))
        yield {"scale": scale, "step_norm": scale * float(solution.x.norm()), "residual": solution.residual}
