"""How the steps of a method are taken: its optimiser, rate and batches, filled in from the recipe."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from service.catalogue.recipe import Recipe
from workers.samples import shuffled_batches
from workers.training import rate_factor

MIN_STEPS, MIN_PUSHES = 40, 4
"""Steps that passes over retain and forget set should have where they allow; a small set gets smaller batches."""


class StepOptions(Protocol):
    """The options of a method that say how its steps are taken; null follows the recipe."""

    @property
    def optimizer(self) -> str | None: ...
    @property
    def lr(self) -> float | None: ...
    @property
    def lr_share(self) -> float | None: ...
    @property
    def momentum(self) -> float | None: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def retain_batch_size(self) -> int | None: ...
    @property
    def forget_batch_size(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How steps are taken, once the options left null are filled in."""

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    retain_batch_size: int
    forget_batch_size: int


def steps_for(
    options: StepOptions, recipe: Recipe, *, rate_share: float, retain_count: int, forget_count: int
) -> Steps:
    """Fill what is left null: optimiser, momentum and a share of the rate from the recipe, batches by the sets.

    `rate_share` is that share where the options name none.
    """
    small_enough = min(recipe.batch_size, max(16, retain_count // MIN_STEPS))
    return Steps(
        optimizer=options.optimizer or recipe.optimizer,
        lr=(options.lr_share or rate_share) * recipe.lr if options.lr is None else options.lr,
        momentum=recipe.momentum if options.momentum is None else options.momentum,
        weight_decay=options.weight_decay,
        retain_batch_size=options.retain_batch_size or small_enough,
        forget_batch_size=options.forget_batch_size or min(64, max(8, forget_count // MIN_PUSHES)),
    )


class TailOptions(Protocol):
    """The options of a method whose epochs end on the retain set alone."""

    @property
    def epochs(self) -> int: ...
    @property
    def tail_epochs(self) -> int: ...
    @property
    def tail_lr_factor(self) -> float: ...


def rates_of_epoch(e: int, per_epoch: int, config: TailOptions, lr: float) -> list[float]:
    """Return the rates of the steps of epoch e, counted from 1: constant, and falling to 0 by a cosine in the tail."""
    if e <= config.epochs:
        return [lr] * per_epoch
    done, total = (e - config.epochs - 1) * per_epoch, config.tail_epochs * per_epoch
    first = lr * config.tail_lr_factor
    return [first * rate_factor("cosine", done + step, total) for step in range(per_epoch)]


def planned_with_tail(config: TailOptions) -> int:
    """Return the epochs before which lost accuracy ends no run: all, where there is a tail, and else none.

    Accuracy comes back as the rate of the tail falls, at its very end.
    """
    return config.epochs + config.tail_epochs if config.tail_epochs else 0


def cycled_batches(count: int, batch_size: int, *, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of positions without end; every pass over all has a new order."""
    while True:
        yield from shuffled_batches(count, batch_size, generator=generator)
