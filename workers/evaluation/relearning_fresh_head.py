"""What relearning takes when only the features are left: a yardstick where a whole class was forgotten.

Unseen samples of a forgotten class are known to whatever still knows the class, so they measure nothing there.
"""

import copy

import torch
from torch import nn

from workers.architectures.ensemble import members
from workers.classification import Classification
from workers.evaluation.relearning import RelearningPlan, delay_result
from workers.evaluation.relearning_curve import relearn
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import no_figure

NAME = "relearning_head_delay"


def head_delay(model: nn.Module, plan: RelearningPlan, *, task: Classification) -> MetricResult:
    """Return the delay on the forget set of the model with its last linear layer freshly initialised, once per seed.

    What its features alone are worth: the model's own delay, by the same plan, stands beside it. Of an ensemble, the
    last layer of each network.
    """
    delays = []
    for seed in range(plan.seed, plan.seed + plan.profile.seeds):
        fresh = with_fresh_head(model, seed=seed)
        if fresh is None:
            return no_figure(NAME, "not_applicable", "the network has no linear layer")
        curve = relearn(
            fresh,
            plan.forget,
            task=task,
            rate=plan.rate,
            target=plan.target,
            cap=plan.profile.max_steps,
            seed=seed,
            batch_size=plan.profile.batch_size,
            optimizer=plan.profile.optimizer,
        )
        delays.append(curve.delay(plan.target))
    return delay_result(
        NAME, "forget", delays, n=len(plan.forget), cap=plan.profile.max_steps, threshold=plan.target.loss
    )


def with_fresh_head(model: nn.Module, *, seed: int) -> nn.Module | None:
    """Return a copy whose last linear layer is initialised anew by `seed` alone; None where there is no such layer.

    Of an ensemble, that of each network. The global random state is left as it was.
    """
    fresh = copy.deepcopy(model)
    linear = [[module for module in net.modules() if isinstance(module, nn.Linear)] for net in members(fresh)]
    if not all(linear):
        return None
    heads = nn.ModuleList(layers[-1] for layers in linear)
    device = next(heads.parameters()).device
    with torch.random.fork_rng(devices=[]):
        # the CPU's generator alone: torch.manual_seed would reseed the accelerators too
        torch.default_generator.manual_seed(seed)
        heads.to("cpu")
        for layers in linear:
            layers[-1].reset_parameters()
    heads.to(device)
    return fresh
