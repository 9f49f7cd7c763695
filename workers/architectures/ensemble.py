"""Several networks of one architecture that answer as one: the aggregation of SISA (Bourtoule et al., S&P 2021)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Average the softmax outputs of its networks; their weights carry the prefix `nets.<shard>.`.

    The paper takes a vote over labels and, where votes are too coarse, the average of the outputs: that one is taken
    here, since it can be differentiated and leaves every metric its confidences.
    """

    def __init__(self, nets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, images: Tensor) -> Tensor:
        """Return log( mean over s of softmax(f_s(x)) ), (N, K): logits whose softmax is the mean itself."""
        each = torch.stack([net(images).log_softmax(1) for net in self.nets])
        return each.logsumexp(0) - math.log(len(self.nets))


def members(model: nn.Module) -> list[nn.Module]:
    """Return the networks of an ensemble; any other model is its own only one."""
    return list(model.nets) if isinstance(model, Ensemble) else [model]
