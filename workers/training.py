"""Train a network by a recipe on samples that lie on its device; the steps that methods share."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer

from service import faults
from service.catalogue.recipe import Recipe
from service.faults import Step
from workers.samples import LabelledSet, shuffled_batches
from workers.task import Task
from workers.training_state import NO_KEEPER, Keeper, TrainingState

Progress = Callable[[str, int, int], None]
"""Called with a phase word, what is done and the total; may be called often and must return quickly."""


MAX_AMPLIFICATION = 30.0


class TrainingError(RuntimeError):
    """Training cannot go on; another seed or another rate may do."""


class NonFiniteLossError(TrainingError):
    """The loss became infinite or not a number."""


class EmptySetError(ValueError):
    """There is no sample to train on."""


class UpdateRule(Protocol):
    """The part of a recipe or of a method's options that names an optimiser."""

    @property
    def optimizer(self) -> str: ...
    @property
    def lr(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class TrainingHistory:
    """Mean training loss of each epoch; in nats for a classifier."""

    epoch_losses: tuple[float, ...]


def no_progress(_phase: str, _done: int, _total: int) -> None:
    """Ignore progress."""


def make_optimizer(parameters: Iterable[nn.Parameter], rule: UpdateRule) -> Optimizer:
    """Return the optimiser a recipe or a method's options name."""
    if rule.optimizer == "sgd":
        return SGD(parameters, rule.lr, momentum=rule.momentum, weight_decay=rule.weight_decay)
    kind = AdamW if rule.optimizer == "adamw" else Adam
    return kind(parameters, rule.lr, betas=(rule.momentum, 0.999), weight_decay=rule.weight_decay)


def rate_factor(schedule: str, step: int, total: int) -> float:
    """Return the rate of step 0 <= `step` < `total` as a share of the recipe's.

    one_cycle rises linearly from 1/25 over the first 30 % and falls to 0 by a cosine; cosine falls from 1.
    """
    if schedule == "constant":
        return 1.0
    warm = max(1, round(0.3 * total)) if schedule == "one_cycle" and total > 1 else 0
    if step < warm:
        return 0.04 + 0.96 * step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def train(
    model: nn.Module,
    samples: LabelledSet,
    recipe: Recipe,
    *,
    task: Task,
    generator: torch.Generator,
    progress: Progress = no_progress,
    phase: str = "train",
    keeper: Keeper = NO_KEEPER,
) -> TrainingHistory:
    """Train `model` in place by the recipe; batch order comes from `generator` (CPU).

    The samples must lie on the model's device. Leaves the model in eval mode. Goes on where `keeper` has kept it, on a
    CPU bit for bit as if it had not been broken off; Stopped goes through.
    Raises EmptySetError, and NonFiniteLossError at the end of the epoch whose loss is not finite.
    """
    if not len(samples):
        raise EmptySetError("no sample to train on")
    optimizer = make_optimizer(model.parameters(), recipe)
    total = recipe.epochs * steps_per_epoch(len(samples), recipe.batch_size)
    generators = [generator, *task.generators]
    state = TrainingState(tensors=model.state_dict(), optimizer=optimizer, generators=generators)
    losses: list[float] = keeper.restore(state)
    step = len(losses) * total // recipe.epochs
    if losses:
        progress(phase, len(losses), recipe.epochs)
    for epoch in range(len(losses), recipe.epochs):
        model.train()
        sums: list[Tensor] = []
        for index in shuffled_batches(len(samples), recipe.batch_size, generator=generator):
            set_rate(optimizer, recipe.lr * rate_factor(recipe.schedule, step, total))
            batch = samples.take(index)
            loss = task.per_sample_loss(model, batch.images, batch.labels)
            take_step(optimizer, loss.mean())
            sums.append(loss.detach().sum())
            step += 1
        # an average of the weights is brought up to date by it, before it is kept
        model.eval()
        losses.append(finite_mean(sums, len(samples), f"{phase} epoch {epoch + 1}"))
        progress(phase, epoch + 1, recipe.epochs)
        keeper.epoch_ended(state, losses, epochs=recipe.epochs)
    model.eval()
    return TrainingHistory(epoch_losses=tuple(losses))


def take_step(optimizer: Optimizer, objective: Tensor, *, grad_norm: float | None = None) -> None:
    """Descend one step on a scalar objective.

    With `grad_norm` the gradient over all parameters is scaled to that norm, though never by more than
    MAX_AMPLIFICATION, so that a gradient of 0 stays 0.
    """
    faults.reach(Step.IN_EPOCH)
    optimizer.zero_grad(set_to_none=True)
    objective.backward()  # type: ignore[no-untyped-call]
    if grad_norm is not None:
        gradients = [w.grad for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        scale = (grad_norm / get_total_norm(gradients)).clamp(max=MAX_AMPLIFICATION)
        for gradient in gradients:
            gradient.mul_(scale)
    optimizer.step()


def finite_mean(sums: list[Tensor], count: int, where: str) -> float:
    """Return sum / count of batch sums, read from the device once; raise NonFiniteLossError."""
    mean = float(torch.stack(sums).double().sum()) / count
    if not math.isfinite(mean):
        raise NonFiniteLossError(f"loss is not finite in {where}")
    return mean


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the steps to come."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return how many batches shuffled_batches yields."""
    steps = math.ceil(count / batch_size)
    # shuffled_batches joins a single left-over sample to the batch before it
    return steps - 1 if steps > 1 and count - (steps - 1) * batch_size == 1 else steps
