"""Exact unlearning of the last k layers (EU-k): Goel et al., Towards Adversarial Evaluations for Inexact Machine
Unlearning, 2022, arXiv:2201.06640. Exact is the paper's name; the frozen layers are the original's.

theta = (theta_frozen, theta_k): all but the last k layers, and those. L_r: cross-entropy on the retain set.

    theta_k <- a fresh initialisation                      once, norm layers' buffers too
    epochs of  theta_k <- theta_k - eta grad L_r           theta_frozen stays

Frozen is everything before the last k layers, as in cf_k.py; layers are counted as last_layers.py says. The
initialisation is a new network's own, so that the architecture's rule for it holds, and the last k layers are
trained by the registered recipe unless options say otherwise. With all layers it is `retrain`.
Ours, since it is left open: the k taken by default, and that the last epoch within the allowed drop of accuracy is
returned; none before the last ends the run. The forget set is never read but to be measured.
"""

import copy
import time
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from service.catalogue.methods import EuKConfig
from service.catalogue.recipe import Recipe
from workers.classification import device_of
from workers.reproducibility import derived_seed
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.last_layers import LastLayers, last_layers, others_frozen, train_mode_for
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def eu_k(model: nn.Module, splits: UnlearningSplits, config: EuKConfig, *, around: Surroundings) -> UnlearningResult:
    """Start a copy's last k layers anew and train them on the retain set; return the last epoch within the drop.

    `selection` says how many layers trained. Raises UnlearningError for a k above the number of layers.
    """
    started = time.perf_counter()
    renewed = copy.deepcopy(model)
    last = last_layers(renewed, config.k)
    recipe = recipe_for(config, around.recipe)
    trajectory = Trajectory(renewed, splits, around)
    renew(renewed, around.build_model(derived_seed(around.generator)).to(device_of(model)), last)
    into_mode = partial(train_mode_for, last=last)
    epochs = finetuning_epochs(renewed, splits, recipe, around, schedule=recipe.schedule, into_mode=into_mode)
    with others_frozen(renewed, last):
        verdict = follow(renewed, epochs, trajectory, recipe.epochs)
    result = trajectory.result(renewed, last_within, verdict, started)
    return replace(result, selection={**result.selection, "layers_trained": last.k, "layers": last.total})


@torch.no_grad()
def renew(model: nn.Module, fresh: nn.Module, last: LastLayers) -> None:
    """Give the last layers of `model`, in place, the parameters and the buffers of `fresh`."""
    for name in last.parameters:
        model.get_parameter(name).copy_(fresh.get_parameter(name))
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[0] in last.modules:
            buffer.copy_(fresh.get_buffer(name))


def recipe_for(config: EuKConfig, recipe: Recipe) -> Recipe:
    """Return the recipe with the options that are not null in place of its own."""
    return recipe.model_copy(update=config.model_dump(exclude={"k", "seed"}, exclude_none=True))
