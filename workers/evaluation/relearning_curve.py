"""Train a scratch copy on one set alone and record every step. Never touches the model it is given.

The protocol: SGD at one constant rate without momentum or decay (the thorough profile: Adam too), norm statistics
frozen, batches in an order drawn by seed, a cap on the steps.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from service.catalogue.metrics.ranges import RELEARNING_CAP
from workers.classification import Classification
from workers.evaluation.intervals import Floats
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, shuffled_batches
from workers.training import take_step

Loss = TypeVar("Loss", float, Floats)
Rule = Literal["sgd", "adam"]
Hopeless = Callable[[Sequence[float]], bool]
"""Says from the mean loss before every step so far whether going on is in vain."""
RULES: dict[Rule, type[torch.optim.SGD] | type[torch.optim.Adam]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


READ_ALL, READ_SHARE = 16, 10
RUN_ON = 1.0


@dataclass(frozen=True, kw_only=True)
class RelearningProfile:
    """The settings of the default profile; `rates` is the ascending grid the rate is calibrated on.

    Where plain SGD is too slow at every rate that does not blow up, Adam takes its place, on `adam_rates`.
    """

    seeds: int = 3
    max_samples: int = 512
    max_steps: int = RELEARNING_CAP
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
    run_on: float = RUN_ON,
    optimizer: Rule = "sgd",
    hopeless: Hopeless | None = None,
) -> Curve:
    """Train a copy of `model` on `samples` and return its curve.

    Ends at the cap, at a loss that is not finite, or once both targets are met: at once, or after `run_on`
    times as many steps again and ten more, which a bootstrap over samples needs to see. `hopeless`, asked at every
    reading, may end it before.
    """
    scratch = scratch_copy(model)
    weights = list(scratch.parameters())
    rule = RULES[optimizer](weights, rate)
    batches = endless_batches(len(samples), batch_size, seed)
    losses: list[Tensor] = []
    means: list[float] = []
    accuracies, path, end = [], [0.0], cap
    reads = reading_steps(cap, free=len(samples) <= batch_size)
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
        means.append(float(losses[-1].double().mean()) if step in reads else means[-1])
        end = ending(step, end, cap, met=reached(means[-1], accuracies[-1], target), run_on=run_on)
        given_up = hopeless is not None and hopeless(means)
        if step >= end or given_up or not np.isfinite(means[-1]):
            break
        path.append(path[-1] + _walk(rule, weights, objective, None if optimizer != "sgd" else rate))
    kept: Floats = torch.stack(losses).double().cpu().numpy()
    return Curve(losses=kept, accuracies=np.array(accuracies), path=np.array(path))


def reading_steps(cap: int, *, free: bool = False) -> frozenset[int]:
    """Return the steps before which the whole set is read: the first 16, then every tenth part further, the cap.

    In between the curve holds its last value: a delay is late by a tenth at most, for a third less time. All of
    them where reading is `free`, the batch being the set.
    """
    if free:
        return frozenset(range(cap + 1))
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


def ending(step: int, end: int, cap: int, *, met: bool, run_on: float) -> int:
    """Return the step to end at, known after `step`; `end` is what was known before, the cap at first."""
    if end < cap or not met:
        return end
    return min(cap, step + math.ceil(run_on * step) + 10) if run_on else step


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
