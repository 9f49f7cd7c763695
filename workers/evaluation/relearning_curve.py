"""Train a scratch copy on one set alone and record every step. Never touches the model it is given.

The protocol: SGD at one constant rate without momentum or decay, norm statistics frozen, batches in an order
drawn by seed, a cap on the steps.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from workers.classification import Classification
from workers.evaluation.intervals import Floats
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, shuffled_batches
from workers.training import take_step

Loss = TypeVar("Loss", float, Floats)


@dataclass(frozen=True, kw_only=True)
class RelearningProfile:
    """The settings of the default profile; `rates` is the ascending grid the rate is calibrated on."""

    seeds: int = 3
    max_samples: int = 512
    max_steps: int = 200
    batch_size: int = 128
    rates: tuple[float, ...] = tuple(float(f"{10 ** (k / 3 - 3):.3g}") for k in range(10))


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What both sets chase: a mean loss in nats and an accuracy, taken from the parent on the forget set."""

    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Hold one run; row t was read before step t, so that row 0 is the model as it was given.

    losses (T + 1, n) per sample in nats, accuracies (T + 1,), path (T + 1,) the length walked so far in
    weight space. T is below the cap when the targets were reached early or the loss stopped being finite.
    """

    losses: Floats
    accuracies: Floats
    path: Floats

    @property
    def mean_losses(self) -> Floats:
        """Return the loss on the set, (T + 1,)."""
        means: Floats = self.losses.mean(1)
        return means

    def delay(self, target: Target) -> int | None:
        """Return the first step whose loss on the set is at the target; None when the run never got there."""
        return first_step(self.mean_losses <= target.loss)

    def accuracy_delay(self, target: Target) -> int | None:
        """Return the first step whose accuracy on the set is at the target, or None."""
        return first_step(self.accuracies >= target.accuracy)


def target_loss(parent_loss: Loss) -> Loss:
    """Return the mean loss that counts as relearned, in nats."""
    return 1.05 * parent_loss + 0.05


def first_step(reached: NDArray[np.bool_]) -> int | None:
    """Return the first true position of (T + 1,), or None."""
    return int(reached.argmax()) if reached.any() else None


def relearn(
    model: nn.Module,
    samples: LabelledSet,
    *,
    task: Classification,
    rate: float,
    target: Target,
    cap: int,
    seed: int,
    batch_size: int = 128,
    run_on: bool = True,
) -> Curve:
    """Train a copy of `model` on `samples` and return its curve.

    Ends at the cap, at a loss that is not finite, or once both targets are met: at once, or with `run_on` only
    after half as many steps again and ten more, which a bootstrap over samples needs to see.
    """
    scratch = copy.deepcopy(model).requires_grad_(requires_grad=True).eval()
    weights = list(scratch.parameters())
    optimizer = torch.optim.SGD(weights, rate)
    batches = _endless_batches(len(samples), batch_size, seed)
    one_batch = len(samples) <= batch_size
    losses: list[Tensor] = []
    accuracies, path, end = [], [0.0], cap
    for step in range(cap + 1):
        # with one batch the training pass reads the whole set already
        with torch.set_grad_enabled(one_batch):
            logits = task.logits(scratch, samples.images)
            loss = task.loss_of_logits(logits, samples.labels)
        losses.append(loss.detach())
        accuracies.append(task.accuracy(logits.detach(), samples.labels))
        mean = float(losses[-1].double().mean())
        if end == cap and mean <= target.loss and accuracies[-1] >= target.accuracy:
            end = min(cap, step + step // 2 + 10) if run_on else step
        if step >= end or not np.isfinite(mean):
            break
        if not one_batch:
            batch = samples.take(next(batches))
            loss = task.per_sample_loss(scratch, batch.images, batch.labels)
        take_step(optimizer, loss.mean())
        # without momentum a step is the rate times the gradient
        path.append(path[-1] + rate * float(get_total_norm(w.grad for w in weights if w.grad is not None)))
    kept: Floats = torch.stack(losses).double().cpu().numpy()
    return Curve(losses=kept, accuracies=np.array(accuracies), path=np.array(path))


def calibrate_rate(
    parent: nn.Module,
    unseen: LabelledSet,
    *,
    task: Classification,
    target: Target,
    seed: int,
    profile: RelearningProfile,
) -> tuple[float, bool]:
    """Return the smallest rate of the grid at which the parent learns `unseen` within half the cap, and True.

    Found by bisection: a run that ended below its first loss was too slow, any other too fast. When no rate
    tried reaches the target, the rate tried that ended at the lowest loss is returned, and False: delays are
    then still comparable with each other but likely censored. A set that is at the target before any step
    says nothing about rates: the middle of the grid is returned, and False.
    """
    cap = profile.max_steps // 2
    low, high = 0, len(profile.rates) - 1
    reached: float | None = None
    ends: dict[float, float] = {}
    while low <= high:
        middle = (low + high) // 2
        rate = profile.rates[middle]
        curve = relearn(
            parent,
            unseen,
            task=task,
            rate=rate,
            target=target,
            cap=cap,
            seed=seed,
            batch_size=profile.batch_size,
            run_on=False,
        )
        if curve.delay(target) == 0:
            return profile.rates[len(profile.rates) // 2], False
        first, last = float(curve.mean_losses[0]), float(curve.mean_losses[-1])
        ends[rate] = last if np.isfinite(last) else np.inf
        hit = curve.delay(target) is not None
        reached = rate if hit else reached
        if not hit and last < first:
            low = middle + 1
        else:
            high = middle - 1
    return (reached, True) if reached is not None else (min(ends, key=lambda rate: ends[rate]), False)


def _endless_batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    generator = generator_for(seed)
    while True:
        yield from shuffled_batches(count, batch_size, generator=generator)
