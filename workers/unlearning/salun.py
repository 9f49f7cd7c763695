"""SalUn: Fan et al., Empowering Machine Unlearning via Gradient-based Weight Saliency, ICLR 2024, arXiv:2310.12508.

theta_o: the original's weights. m_S: the saliency mask, of theta's shape.

    m_S = 1( |grad_theta sum over D_f of CE(theta_o)| >= gamma ),   gamma such that a share of all weights is kept
    theta_u = m_S (Delta theta + theta_o) + (1 - m_S) theta_o       Delta theta: taught by random labels, section 4

Where this differs from the paper, or public code:
- The mask is cut once, by one k-th value over all weights, from one pass over D_f in eval mode.
- The formula leaves weights outside the mask exactly as they were. A mask on the gradient alone does not: weight
  decay and momentum go on moving them, so after every step they are put back.
- Buffers of norm layers are no weights and stand in no mask, yet what enters them is the forget set under wrong
  labels: they keep the original's values. The norm layers are therefore in eval mode throughout; dropout is on.
- Random labels are taught as in random_label.py, which says what is left open there, at half its default rate: with
  the norm layers' statistics fixed, a tenth of the recipe's rate led a whole class of Fashion-MNIST to diverge on two
  of three seeds.
"""

import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from service.catalogue.methods import SalunConfig
from workers.classification import PREDICT_BATCH, evaluating
from workers.samples import LabelledSet
from workers.task import Task
from workers.training import take_step
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits
from workers.unlearning.random_label import random_label_epochs
from workers.unlearning.selection import chooser_for
from workers.unlearning.steps import planned_with_tail
from workers.unlearning.trajectory import Trajectory, follow

RECIPE_RATE_SHARE = 0.05


def salun(model: nn.Module, splits: UnlearningSplits, config: SalunConfig, *, around: Surroundings) -> UnlearningResult:
    """Teach the salient weights of a copy random wrong labels; return the epoch that `rewind` chooses."""
    started = time.perf_counter()
    taught = copy.deepcopy(model)
    mask = saliency_mask(forget_gradient(taught, splits.forget, around.task), config.saliency)
    original = {name: w.detach().clone() for name, w in taught.named_parameters()}

    def masked_step(optimizer: Optimizer, objective: Tensor) -> None:
        take_step(optimizer, objective)
        with torch.no_grad():
            for name, w in taught.named_parameters():
                w.copy_(torch.where(mask[name], w, original[name]))

    trajectory = Trajectory(taught, splits, around)
    epochs = random_label_epochs(
        taught,
        splits,
        config,
        around,
        step=masked_step,
        into_mode=train_but_norm_layers,
        rate_share=RECIPE_RATE_SHARE,
    )
    repaired_after = config.epochs if config.tail_epochs else 0
    verdict = follow(taught, epochs, trajectory, planned_with_tail(config))
    return trajectory.result(taught, chooser_for(config.rewind, settled_after=repaired_after), verdict, started)


def forget_gradient(model: nn.Module, forget: LabelledSet, task: Task) -> dict[str, Tensor]:
    """Return the gradient of the summed loss over `forget` per parameter, eval mode; one pass in batches."""
    names, weights = zip(*model.named_parameters(), strict=True)
    sums = [torch.zeros_like(w) for w in weights]
    with evaluating(model), torch.enable_grad():
        for index in torch.split(torch.arange(len(forget)), PREDICT_BATCH):
            batch = forget.take(index)
            loss = task.per_sample_loss(model, batch.images, batch.labels).sum()
            for total, g in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total.add_(g)
    return dict(zip(names, sums, strict=True))


def saliency_mask(gradient: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return True where |gradient| is among the largest `share` of all entries; ties at the edge are left out."""
    # on the CPU, since CUDA has no repeatable k-th value
    sizes = torch.cat([g.abs().flatten().cpu() for g in gradient.values()])
    if not bool(torch.isfinite(sizes).all()):
        raise UnlearningError(
            "the gradient of the forget loss is not finite, so no weight is more salient than another"
        )
    kept = max(1, round(share * len(sizes)))
    edge = float(sizes.kthvalue(len(sizes) - kept).values) if kept < len(sizes) else -1.0
    return {name: g.abs() > edge for name, g in gradient.items()}


def train_but_norm_layers(model: nn.Module) -> None:
    """Put the model in train mode, its batch and instance norms in eval mode, so that their buffers stay."""
    model.train()
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.eval()
