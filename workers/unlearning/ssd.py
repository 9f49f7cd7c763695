"""Selective synaptic dampening (SSD): Foster et al., Fast Machine Unlearning Without Retraining Through Selective
Synaptic Dampening, AAAI 2024, arXiv:2308.07707.

L: the task's loss.  F: the diagonal of the empirical Fisher information, over all data and over the forget set.

    F_i = (1/N) sum over n of ( d L(x_n, y_n) / d theta_i )^2

The weights are dampened by it as dampening.py says, with what is calibrated there and why.
"""

from torch import nn

from service.catalogue.methods import SsdConfig
from workers.unlearning.dampening import dampened
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits


def ssd(model: nn.Module, splits: UnlearningSplits, config: SsdConfig, *, around: Surroundings) -> UnlearningResult:
    """Dampen a copy by the importance of the loss; return the strength chosen. Raises UnlearningError."""
    return dampened(model, splits, config, around, score="loss")
