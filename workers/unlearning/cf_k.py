"""Catastrophic forgetting of the last k layers (CF-k): Goel et al., Towards Adversarial Evaluations for Inexact
Machine Unlearning, 2022, arXiv:2201.06640.

theta = (theta_frozen, theta_k): all but the last k layers, and those. L_r: cross-entropy on the retain set.

    epochs of  theta_k <- theta_k - eta grad L_r           theta_frozen stays

Frozen is everything before the last k layers, as last_layers.py counts them: parameters get no gradient, hence no
weight decay and no momentum; norm layers and dropout there are in eval mode, so no buffer moves. In the last k
layers norm layers are in train mode. With all layers it is `finetune`.
Ours, since it is left open: the k taken by default, rate and update rule, which are those of `finetune`, and that
the last epoch within the allowed drop of accuracy is returned. The forget set is never read but to be measured.

On a small net the default rate left a forgotten class known; one of 0.3 did not (tests/unit/science/test_cf_k.py).
"""

import copy
import time
from dataclasses import replace
from functools import partial

from torch import nn

from service.catalogue.methods import CfKConfig
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.last_layers import last_layers, others_frozen, train_mode_for
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def cf_k(model: nn.Module, splits: UnlearningSplits, config: CfKConfig, *, around: Surroundings) -> UnlearningResult:
    """Train a copy's last k layers on the retain set; return the last epoch within the allowed drop of accuracy.

    `selection` says how many layers trained. Raises UnlearningError for a k above the number of layers.
    """
    started = time.perf_counter()
    tuned = copy.deepcopy(model)
    last = last_layers(tuned, config.k)
    trajectory = Trajectory(tuned, splits, around)
    epochs = finetuning_epochs(tuned, splits, config, around, into_mode=partial(train_mode_for, last=last))
    with others_frozen(tuned, last):
        verdict = follow(tuned, epochs, trajectory, 0)
    result = trajectory.result(tuned, last_within, verdict, started)
    return replace(result, selection={**result.selection, "layers_trained": last.k, "layers": last.total})
