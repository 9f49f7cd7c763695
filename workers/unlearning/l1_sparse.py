"""l1-sparse: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023, arXiv:2304.04934.

L_r: mean cross-entropy on a retain batch; theta: every trainable weight, biases and norm layers too.

    minimise  L_r(theta) + alpha_t ||theta||_1,     alpha_t = alpha (1 - t / T)        step t of T, from 0

Where this differs from the paper, or it leaves it open:
- alpha_t falls with every step; the authors' runs let it fall with every epoch.
- The slope of |theta| at 0 is 0. Plain steps leave weights near 0, not at it: nothing is pruned.
- Norm layers are in train mode, and weight decay stays on beside the penalty, as in `finetune`.
- The forget set is never read but to be measured. The last epoch within the allowed drop of accuracy is returned; none
  before the last ends the run, since what the penalty costs comes back as it falls.
"""

import copy
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from service.catalogue.methods import L1SparseConfig
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def l1_sparse(
    model: nn.Module, splits: UnlearningSplits, config: L1SparseConfig, *, around: Surroundings
) -> UnlearningResult:
    """Train a copy on the retain set under the penalty; return its last epoch within the allowed drop of accuracy."""
    started = time.perf_counter()
    thinned = copy.deepcopy(model)
    trajectory = Trajectory(thinned, splits, around)
    verdict = follow(thinned, penalised_epochs(thinned, splits, config, around), trajectory, config.epochs)
    return trajectory.result(thinned, last_within, verdict, started)


def penalised_epochs(
    model: nn.Module, splits: UnlearningSplits, config: L1SparseConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Move `model` by one epoch per item; yield its mean cross-entropy and the l1 norm that it leaves."""
    weights = [w for w in model.parameters() if w.requires_grad]

    def penalty(done: float) -> Tensor:
        return config.alpha * (1 - done) * l1_norm(weights)

    for told in finetuning_epochs(model, splits, config, around, penalty=penalty):
        yield {**told, "l1_norm": float(l1_norm(weights).detach())}


def l1_norm(weights: Sequence[Tensor]) -> Tensor:
    """Return the sum of the absolute values of all entries, a scalar tensor."""
    return torch.stack([w.abs().sum() for w in weights]).sum()
