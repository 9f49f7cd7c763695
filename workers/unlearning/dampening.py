"""Selective dampening: shrink the weights that matter far more to the forget set than to all data. By Foster et al.,
SSD (arXiv:2308.07707) and LFSSD (arXiv:2402.19308), which differ in what they take for importance alone.

F_D, F_f: diagonal importance over all the parent was trained on and over the forget set (importance.py).

    where F_f > alpha F_D:   theta <- beta theta,   beta = min(lambda F_D / F_f, 1)        every other weight stays

One shot, no step is taken and nothing is drawn by the run's seed: every seed gives the same candidates. Buffers stay
as they are.
Where this differs from the papers, or public code:
- F is the mean over per-sample gradients. Public code takes the gradient of a batch's mean, which makes F depend on
  the batch size; the published alpha = 10 goes with that.
- So alpha is calibrated: each alpha of a small grid, cut so that given shares of the weights are dampened, is
  tried from the original weights, and the choice is made on the forget set and the selection pool. `alpha` named
  is taken alone. With F_D over N samples of which N_f are forgotten no alpha above N / N_f dampens anything, and
  a class that the parent fits well has F_f < F_D nearly everywhere: lambda = 1 would leave its weights as they are.
- So lambda left null follows alpha in the published ratio, lambda / alpha = 1 / 10: both scale as F_f / F_D does.
- F_D depends on the parent alone. Where it is prepared (`importance_loss`, `importance_output`) no retained sample is
  read and a run costs the same whatever their number; else it is put together here from F_f and one pass over the
  retain set.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from service.catalogue.methods import DampeningConfig
from workers.samples import LabelledSet
from workers.unlearning.importance import SCORES, Importance, diagonal_importance, pooled
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import calibrate_on_unseen
from workers.unlearning.trajectory import Trajectory, follow

MEBIBYTE = 2**20
LAMBDA_PER_ALPHA = 0.1
"""The ratio of the paper's lambda = 1 and alpha = 10."""


def dampened(
    model: nn.Module, splits: UnlearningSplits, config: DampeningConfig, around: Surroundings, *, score: str
) -> UnlearningResult:
    """Dampen a copy by the importance of that score, a key of SCORES; return the strength chosen.

    `selection` says what was tried, chosen and prepared. Raises UnlearningError.
    """
    started = time.perf_counter()
    moved = copy.deepcopy(model).eval()
    f_f, f_d, spent = importances(moved, splits, config, around, score)
    alphas = (config.alpha,) if config.alpha is not None else alphas_for(f_f, f_d, config.shares)
    trajectory = Trajectory(moved, splits, around)
    verdict = follow(moved, candidates(moved, f_f, f_d, alphas, config, around), trajectory, 0)
    result = trajectory.result(moved, calibrate_on_unseen, verdict, started)
    chosen = alphas[result.selection["epoch"] - 1]
    return replace(result, selection={**result.selection, "alpha": chosen, "grid": [*alphas], "importance": spent})


def importances(
    model: nn.Module, splits: UnlearningSplits, config: DampeningConfig, around: Surroundings, score: str
) -> tuple[Importance, Importance, dict[str, float | bool]]:
    """Return F_f, F_D and what they took. The retain set is read only where F_D is not prepared.

    A task that draws noise draws it by the recipe's seed, as where F_D is prepared, not by the run's: on other draws
    the forgotten samples would have one importance in F_f and another in F_D.
    """
    task = around.task.on_draws_of(around.recipe.seed)

    def over(samples: LabelledSet) -> dict[str, Tensor]:
        return diagonal_importance(model, samples, task, score=SCORES[score], budget=config.memory_mib * MEBIBYTE)

    clock = time.perf_counter()
    f_f = over(splits.forget)
    forget_seconds = time.perf_counter() - clock
    prepared = around.prepared.get(f"importance_{score}")
    if prepared is not None:
        _refuse_other_network(f_f, prepared)
        device = {name: f.to(f_f[name].device) for name, f in prepared.items()}
        return f_f, device, {"prepared": True, "forget_seconds": forget_seconds, "full_seconds": 0.0}
    f_d = pooled(f_f, len(splits.forget), over(splits.retain), len(splits.retain))
    full_seconds = time.perf_counter() - clock - forget_seconds
    return f_f, f_d, {"prepared": False, "forget_seconds": forget_seconds, "full_seconds": full_seconds}


def alphas_for(f_f: Importance, f_d: Importance, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Return the alphas above which F_f / F_D lies for these shares of all weights, gentlest first, each once."""
    ratio = (
        torch.cat([(f_f[name] / f_d[name]).nan_to_num(nan=0.0, posinf=torch.inf).flatten() for name in f_f])
        .sort(descending=True)
        .values
    )
    found = [float(ratio[min(len(ratio) - 1, max(1, round(share * len(ratio))))]) for share in shares]
    usable = sorted({alpha for alpha in found if 0 < alpha < float("inf")}, reverse=True)
    if not usable:
        raise UnlearningError("no weight matters to the forget set: every gradient of its samples is 0")
    return tuple(usable)


def candidates(
    model: nn.Module,
    f_f: Importance,
    f_d: Importance,
    alphas: tuple[float, ...],
    config: DampeningConfig,
    around: Surroundings,
) -> Iterator[dict[str, float]]:
    """Set `model` to the dampened original, alpha by alpha; yield alpha and the share of weights it dampened."""
    original = {name: w.detach().clone() for name, w in model.named_parameters()}
    count = sum(w.numel() for w in original.values())
    for done, alpha in enumerate(alphas, start=1):
        hit, lam = 0, LAMBDA_PER_ALPHA * alpha if config.lam is None else config.lam
        with torch.no_grad():
            for name, w in model.named_parameters():
                chosen = f_f[name] > alpha * f_d[name]
                w.copy_(torch.where(chosen, damp(original[name], f_f[name], f_d[name], lam), original[name]))
                hit += int(chosen.sum())
        around.progress("unlearn", done, len(alphas))
        yield {"alpha": alpha, "lambda": lam, "dampened_share": hit / count}


def damp(theta: Tensor, f_f: Tensor, f_d: Tensor, lam: float) -> Tensor:
    """Return min(lambda F_D / F_f, 1) theta; where F_f is 0, theta."""
    beta = (lam * f_d / f_f).nan_to_num(1.0, posinf=1.0).clamp(max=1.0)
    return (theta * beta).to(theta.dtype)


def _refuse_other_network(f_f: Importance, prepared: Importance) -> None:
    if {name: f.shape for name, f in f_f.items()} != {name: f.shape for name, f in prepared.items()}:
        raise UnlearningError("the prepared importance belongs to another network: prepare it again")
