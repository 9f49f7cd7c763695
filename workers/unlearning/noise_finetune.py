"""Noise once, then fine-tuning: the control beside methods that put noise into the weights step by step.

After shrink and perturb: Ash & Adams, On Warm-Starting Neural Network Training, NeurIPS 2020, arXiv:1910.08475.
theta: a weight tensor; xi ~ N(0, I); L_r: cross-entropy on the retain set.

    theta <- (1 - shrink) theta + s rms(theta) xi          once, rms of theta before it is shrunk
    then epochs of  theta <- theta - eta grad L_r

Where this differs: the paper starts a warm training with one sigma for all tensors; here the noise is in units of
each tensor's root mean square, biases and norm layers are left alone, and the purpose is to forget. Norm layers are
in train mode, and their buffers come from retained samples. The forget set is never read but to be measured.
The last epoch within the allowed drop of accuracy is returned; none before the last ends the run.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from service.catalogue.methods import NoiseFinetuneConfig
from service.catalogue.recipe import Recipe
from workers.unlearning.finetune import finetuning_epochs
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow
from workers.unlearning.weight_noise import add_noise, feature_weights, noise_source


def noise_finetune(
    model: nn.Module, splits: UnlearningSplits, config: NoiseFinetuneConfig, *, around: Surroundings
) -> UnlearningResult:
    """Perturb a copy and train it on the retain set; return its last epoch within the allowed drop of accuracy."""
    started = time.perf_counter()
    perturbed = copy.deepcopy(model)
    trajectory = Trajectory(perturbed, splits, around)
    verdict = follow(perturbed, perturbed_epochs(perturbed, splits, config, around), trajectory, config.epochs)
    return trajectory.result(perturbed, last_within, verdict, started)


def perturbed_epochs(
    model: nn.Module, splits: UnlearningSplits, config: NoiseFinetuneConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Perturb `model`, then move it by one epoch over the retain set per item; yield the epoch's mean loss."""
    shrink_and_perturb(model, config, around.generator)
    yield from finetuning_epochs(model, splits, tuning_by(config, around.recipe), around, schedule=config.schedule)


@torch.no_grad()
def shrink_and_perturb(model: nn.Module, config: NoiseFinetuneConfig, generator: torch.Generator) -> None:
    """Put noise on the feature weights of `model` and shrink what was there."""
    weights = feature_weights(model)
    taken = [config.shrink * w for w in weights]
    add_noise(weights, config.noise, noise_source(model, generator))
    for w, part in zip(weights, taken, strict=True):
        w.sub_(part)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the epochs after the noise are run, once the options left null are filled in."""

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    epochs: int
    batch_size: int


def tuning_by(config: NoiseFinetuneConfig, recipe: Recipe) -> Tuning:
    """Fill what is left null from the recipe."""
    return Tuning(
        optimizer=config.optimizer or recipe.optimizer,
        lr=recipe.lr if config.lr is None else config.lr,
        momentum=recipe.momentum if config.momentum is None else config.momentum,
        weight_decay=config.weight_decay,
        epochs=config.epochs,
        batch_size=config.batch_size or recipe.batch_size,
    )
