"""Decide which samples each reference model is trained on. Trains nothing."""

import torch
from torch import Tensor


def balanced_halves(labels: Tensor, models: int, *, generator: torch.Generator) -> Tensor:
    """Return a bool mask (k, N) on the CPU: row i marks what reference i is trained on, of labels (N,).

    Every sample is IN for exactly k/2 references. The references' sizes, as a whole and within each class, differ
    by one at most. Samples are taken in random pairs of one class whose columns are complements, so that for each
    sample alone every choice of k/2 references is equally likely; the two of a pair never share a reference.
    Raises ValueError when k is odd or below 2.
    """
    if models < 2 or models % 2:
        raise ValueError(f"the number of reference models must be even and at least 2, not {models}")
    count = len(labels)
    pairs = -(-count // 2)
    draws = torch.rand((pairs, models), generator=generator, dtype=torch.float64)
    columns = draws.argsort(1).argsort(1) < models // 2
    mask = torch.empty((count, models), dtype=torch.bool)
    mask[_paired_order(labels.cpu(), generator)] = torch.stack((columns, ~columns), 1).flatten(0, 1)[:count]
    return mask.T.contiguous()


def _paired_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return all positions so that 2i and 2i + 1 share a class, but for each odd class's last, which come last."""
    paired, single = [torch.empty(0, dtype=torch.int64)], []
    for label in torch.unique(labels):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=generator)]
        even = len(members) // 2 * 2
        paired.append(members[:even])
        single.append(members[even:])
    return torch.cat(paired + single)
