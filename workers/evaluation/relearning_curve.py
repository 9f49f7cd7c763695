"""Train a scratch copy on one set alone and record every step. Never touches the model it is given.

The protocol: SGD at one constant rate without momentum or decay (the thorough profile: Adam too), norm statistics
frozen, batches in an order drawn by seed, a cap on the steps.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

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
Rule = Literal["sgd", "adam"]
RULES: dict[Rule, type[torch.optim.SGD] | type[torch.optim.Adam]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


READ_ALL, READ_SHARE = 32, 16


@dataclass(frozen=True, kw_only=True)
class RelearningProfile:
    """The settings of the default profile; `rates` is the ascending grid the rate is calibrated on.

    Where plain SGD is too slow at every rate that does not blow up, Adam takes its place, on `adam_rates`.
    """

    seeds: int = 3
    max_samples: int = 512
    max_steps: int = 200
    adam_rates: tuple[float, ...] = tuple(float(f"{10 ** (k / 3 - 4):.3g}") for k in range(7))
    batch_size: int = 128
    rates: tuple[float, ...] = tuple(float(f"{10 ** (k / 3 - 3):.3g}") for k in range(10))
    optimizer: Rule = "sgd"


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What both sets chase: a mean loss in nats and an accuracy, taken from the parent on the forget set."""

    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Hold one run; row t was read before step t, so that row 0 is the model as it was given.

    losses (T + 1, n) per sample in nats, accuracies (T + 1,), path (T + 1,) the length walked so far in
    weight space. Rows of steps at which the set was not read repeat the one before. T is below the cap when the
    targets were reached early or the loss stopped being finite.
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
    optimizer: Rule = "sgd",
) -> Curve:
    """Train a copy of `model` on `samples` and return its curve.

    Ends at the cap, at a loss that is not finite, or once both targets are met: at once, or with `run_on` only
    after as many steps again and ten more, which a bootstrap over samples needs to see.
    """
    scratch = scratch_copy(model)
    weights = list(scratch.parameters())
    rule = RULES[optimizer](weights, rate)
    batches = endless_batches(len(samples), batch_size, seed)
    losses: list[Tensor] = []
    accuracies, path, end = [], [0.0], cap
    reads = reading_steps(cap)
    for step in range(cap + 1):
        index = next(batches)
        if step in reads:
            logits, objective = _read(scratch, samples, index, task)
            losses.append(task.loss_of_logits(logits, samples.labels))
            accuracies.append(task.accuracy(logits, samples.labels))
        else:
            batch = samples.take(index)
            objective = task.per_sample_loss(scratch, batch.images, batch.labels).mean()
            losses.append(losses[-1])
            accuracies.append(accuracies[-1])
        mean = float(losses[-1].double().mean())
        end = ending(step, end, cap, met=reached(mean, accuracies[-1], target), run_on=run_on)
        if step >= end or not np.isfinite(mean):
            break
        path.append(path[-1] + _walk(rule, weights, objective, None if optimizer != "sgd" else rate))
    kept: Floats = torch.stack(losses).double().cpu().numpy()
    return Curve(losses=kept, accuracies=np.array(accuracies), path=np.array(path))


def reading_steps(cap: int) -> frozenset[int]:
    """Return the steps before which the whole set is read: the first 32, then every sixteenth part further, the cap.

    In between the curve holds its last value: a delay is late by a sixteenth at most, for about half the time.
    """
    steps, step = [cap], 0
    while step < cap:
        steps.append(step)
        step += max(1, step // READ_SHARE if step >= READ_ALL else 1)
    return frozenset(steps)


def scratch_copy(model: nn.Module) -> nn.Module:
    """Return a copy to train, its norm statistics frozen; on a CPU in the layout its convolutions are faster in."""
    scratch = copy.deepcopy(model).requires_grad_(requires_grad=True).eval()
    on_cpu = all(w.device.type == "cpu" for w in scratch.parameters())
    return scratch.to(memory_format=torch.channels_last) if on_cpu else scratch


def reached(loss: float, accuracy: float, target: Target) -> bool:
    """Say whether both targets are met."""
    return loss <= target.loss and accuracy >= target.accuracy


def ending(step: int, end: int, cap: int, *, met: bool, run_on: bool) -> int:
    """Return the step to end at, known after `step`; `end` is what was known before, the cap at first."""
    if end < cap or not met:
        return end
    return min(cap, 2 * step + 10) if run_on else step


def endless_batches(count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield positions below `count`, batch by batch, in an order drawn by seed; one batch alone has no order."""
    generator = generator_for(seed)
    while count <= batch_size:
        yield torch.arange(count)
    while True:
        yield from shuffled_batches(count, batch_size, generator=generator)


def complement(count: int, index: Tensor) -> Tensor:
    """Return the positions below `count` that are not in `index`."""
    left = torch.ones(count, dtype=torch.bool)
    left[index] = False
    return left.nonzero().squeeze(1)


def _read(scratch: nn.Module, samples: LabelledSet, index: Tensor, task: Classification) -> tuple[Tensor, Tensor]:
    """Return logits of the whole set, detached, and the mean loss of the batch at `index` to descend on.

    The batch is read once for both: with frozen statistics a sample's logits do not depend on its batch mates.
    """
    batch, rest = samples.take(index), complement(len(samples), index).to(samples.device)
    ours = task.logits(scratch, batch.images)
    logits = ours.new_empty(len(samples), ours.shape[1])
    logits[index.to(samples.device)] = ours.detach()
    if len(rest):
        with torch.no_grad():
            logits[rest] = task.logits(scratch, samples.images[rest])
    return logits, task.loss_of_logits(ours, batch.labels).mean()


def _walk(rule: torch.optim.Optimizer, weights: list[nn.Parameter], objective: Tensor, rate: float | None) -> float:
    """Take a step and return its length; with a rate it is that times the gradient, without it is measured."""
    before = [w.detach().clone() for w in weights] if rate is None else []
    take_step(rule, objective)
    if rate is not None:
        return rate * float(get_total_norm(w.grad for w in weights if w.grad is not None))
    return float(get_total_norm(w.detach() - b for w, b in zip(weights, before, strict=True)))


def calibrate(
    parent: nn.Module,
    unseen: LabelledSet,
    *,
    task: Classification,
    target: Target,
    seed: int,
    profile: RelearningProfile,
) -> tuple[float, bool, RelearningProfile]:
    """Return rate, whether it was calibrated, and the profile with the optimiser it is for."""
    rate, found = calibrate_rate(parent, unseen, task=task, target=target, seed=seed, profile=profile)
    if found or profile.optimizer == "adam" or mean_loss(parent, unseen, task) <= target.loss:
        return rate, found, profile
    adam = replace(profile, optimizer="adam", rates=profile.adam_rates)
    faster, found = calibrate_rate(parent, unseen, task=task, target=target, seed=seed, profile=adam)
    return (faster, True, adam) if found else (rate, False, profile)


def mean_loss(model: nn.Module, samples: LabelledSet, task: Classification) -> float:
    """Return the mean loss of the set in nats."""
    return float(task.loss_of_logits(task.predict(model, samples), samples.labels).mean())


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
            optimizer=profile.optimizer,
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
