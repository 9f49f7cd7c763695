"""Convolution transpose (CT), then fine-tuning: ranked high by Cadet et al., Deep Unlearn, 2024, arXiv:2410.01276.

theta[o, i, h, w]: a convolution's weight. L_r: cross-entropy on the retain set.

    theta[o, i, h, w] <- theta[o, i, w, h]          once, every convolution
    then epochs of  theta <- theta - eta grad L_r

A reconstruction from the description. Ours, since it leaves them open:
- Kernels that are not square cannot be transposed in place and stay; 1 x 1 kernels are their own transpose. A net
  without any other is refused, since all that would be left is fine-tuning.
- Rate and update rule of the fine-tuning are those of `finetune`. Norm layers are in train mode.
- The forget set is never read but to be measured. The last epoch within the allowed drop of accuracy is returned.
"""

import copy
import time
from collections.abc import Iterator

import torch
from torch import nn

from service.catalogue.methods import ConvTransposeConfig
from workers.unlearning.convolutions import square_kernels
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def conv_transpose(
    model: nn.Module, splits: UnlearningSplits, config: ConvTransposeConfig, *, around: Surroundings
) -> UnlearningResult:
    """Transpose a copy's kernels and train it on the retain set; return its last epoch within the allowed drop.

    Raises UnlearningError for a network without a square kernel above 1 x 1.
    """
    started = time.perf_counter()
    turned = copy.deepcopy(model)
    square_kernels(turned)
    trajectory = Trajectory(turned, splits, around)
    verdict = follow(turned, transposed_epochs(turned, splits, config, around), trajectory, config.epochs)
    return trajectory.result(turned, last_within, verdict, started)


def transposed_epochs(
    model: nn.Module, splits: UnlearningSplits, config: ConvTransposeConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Transpose the kernels of `model`, then move it by one epoch per item; yield the epoch's mean loss."""
    transpose_kernels(model)
    yield from finetuning_epochs(model, splits, config, around)


@torch.no_grad()
def transpose_kernels(model: nn.Module) -> None:
    """Swap height and width of every square kernel in place. Raises UnlearningError where there is none."""
    for w in square_kernels(model):
        w.copy_(w.transpose(2, 3).clone())
