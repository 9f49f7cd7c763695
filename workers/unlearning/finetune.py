"""Fine-tuning on the retain set: cross-entropy alone, the forget set is never read.

The baseline of the field, e.g. Golatkar et al., CVPR 2020, arXiv:1911.04933. Norm layers in train mode.
"""

import copy
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from service.catalogue.methods import FinetuneConfig
from workers.samples import shuffled_batches
from workers.training import UpdateRule, finite_mean, make_optimizer, rate_factor, set_rate, steps_per_epoch, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import last_within
from workers.unlearning.trajectory import Trajectory, follow


def finetune(
    model: nn.Module, splits: UnlearningSplits, config: FinetuneConfig, *, around: Surroundings
) -> UnlearningResult:
    """Train a copy on the retain set; return its last epoch within the allowed drop of accuracy."""
    started = time.perf_counter()
    tuned = copy.deepcopy(model)
    trajectory = Trajectory(tuned, splits, around)
    verdict = follow(tuned, finetuning_epochs(tuned, splits, config, around), trajectory, 0)
    return trajectory.result(tuned, last_within, verdict, started)


class EpochRule(UpdateRule, Protocol):
    """The part of a method's options that says how epochs over the retain set are run."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...


def no_penalty(_done: float) -> float:
    """Add nothing to the loss."""
    return 0.0


def finetuning_epochs(
    model: nn.Module,
    splits: UnlearningSplits,
    config: EpochRule,
    around: Surroundings,
    *,
    schedule: str = "constant",
    step: Callable[[Optimizer, Tensor], None] = take_step,
    penalty: Callable[[float], Tensor | float] = no_penalty,
    into_mode: Callable[[nn.Module], object] = nn.Module.train,
) -> Iterator[dict[str, float]]:
    """Move `model` by one epoch over the retain set per item; yield the epoch's mean cross-entropy.

    `schedule` is one of the recipe's and spans all epochs; `step` descends once on a batch's objective. That is the
    batch's mean loss plus `penalty`, which takes the share of all steps done before, in [0, 1). `into_mode` begins
    each epoch.
    """
    optimizer = make_optimizer(model.parameters(), config)
    retain, taken = splits.retain, 0
    total = config.epochs * steps_per_epoch(len(retain), config.batch_size)
    for e in range(1, config.epochs + 1):
        into_mode(model)
        sums = []
        for index in shuffled_batches(len(retain), config.batch_size, generator=around.generator):
            set_rate(optimizer, config.lr * rate_factor(schedule, taken, total))
            batch = retain.take(index)
            loss = around.task.per_sample_loss(model, batch.images, batch.labels)
            step(optimizer, loss.mean() + penalty(taken / total))
            taken += 1
            sums.append(loss.detach().sum())
        model.eval()
        around.progress("unlearn", e, config.epochs)
        yield {"loss": finite_mean(sums, len(retain), f"fine-tuning epoch {e}")}
