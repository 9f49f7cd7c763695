"""Run several relearning copies of one model: stacked in one vectorised step, or one after the other.

Both ways give the same curves up to rounding: every copy has its own set, batch order and end, and no copy's loss
depends on another's weights.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from workers.classification import Classification, device_of
from workers.evaluation.intervals import Floats
from workers.evaluation.relearning_curve import (
    RULES,
    RUN_ON,
    Curve,
    Rule,
    Target,
    complement,
    ending,
    endless_batches,
    reached,
    reading_steps,
    relearn,
    scratch_copy,
)
from workers.micro_batches import is_split
from workers.samples import LabelledSet
from workers.stacking import why_not_stacked
from workers.training import take_step

LARGEST_STACK = 8
"""So many copies at once: their activations lie in memory together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Relearner:
    """One copy to run: its set, and the seed of its batch order."""

    samples: LabelledSet
    seed: int


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What all copies of one setting share."""

    task: Classification
    rate: float
    target: Target
    cap: int
    batch_size: int
    optimizer: Rule = "sgd"
    run_on: float = RUN_ON


def relearn_all(
    model: nn.Module,
    runs: Sequence[Relearner],
    protocol: Protocol,
    *,
    done: Callable[[int], None],
    stacked: bool | None = None,
) -> tuple[Curve, ...]:
    """Return the curve of each run, in order; `done` is told before each step how many runs are behind.

    Stacked on CUDA, one after the other on a CPU, whose grouped convolutions lose more than they save; `stacked`
    says otherwise. Only sets of one size are stacked, and only networks that can be vectorised.
    """
    if stacked is None:
        stacked = device_of(model).type == "cuda" and not is_split()
    if stacked and runs:
        trial = scratch_copy(model)
        stacked = why_not_stacked(trial, runs[0].samples, task=protocol.task, training=False) is None
    curves: dict[int, Curve] = {}
    for members in _groups([len(run.samples) for run in runs], LARGEST_STACK if stacked else 1):
        done(len(curves))
        together = [runs[i] for i in members]
        if len(together) > 1:
            found = relearn_stacked(model, together, protocol)
        else:
            found = [_alone(model, together[0], protocol)]
        curves.update(zip(members, found, strict=True))
    return tuple(curves[i] for i in range(len(runs)))


def relearn_stacked(model: nn.Module, runs: Sequence[Relearner], protocol: Protocol) -> list[Curve]:
    """Train a copy of `model` per run, all in each step, until the last has ended; sets are of one size."""
    stack, count = _Stack(model, runs, protocol.task), len(runs[0].samples)
    rule = RULES[protocol.optimizer](list(stack.weights.values()), protocol.rate)
    orders = [endless_batches(count, protocol.batch_size, run.seed) for run in runs]
    losses: list[Tensor] = []
    accuracies: list[list[float]] = []
    walked: list[Tensor] = []
    clocks = [_Clock(cap=protocol.cap, run_on=protocol.run_on) for _ in runs]
    reads = reading_steps(protocol.cap, free=count <= protocol.batch_size)
    for step in range(protocol.cap + 1):
        index = torch.stack([next(order) for order in orders])
        if step in reads:
            logits, objective = stack.read(index)
            losses.append(stack.losses(logits))
            right = (logits.argmax(2) == stack.labels).double().mean(1)
            # one transfer a reading, whatever the number of copies
            means, rates = torch.stack([losses[-1].double().mean(1), right]).tolist()
        else:
            objective = stack.objective(index.to(stack.labels.device))[0]
            losses.append(losses[-1])
        accuracies.append(rates)
        for clock, mean, accuracy in zip(clocks, means, rates, strict=True):
            clock.tell(step, mean, accuracy, protocol.target)
        if all(clock.over for clock in clocks):
            break
        walked.append(stack.walk(rule, objective))
    kept = torch.stack(losses).double().cpu().numpy()
    lengths = torch.stack(walked).double().cpu().numpy() if walked else np.zeros((0, len(runs)))
    right_at = np.array(accuracies)
    return [_cut(kept[:, i], right_at[:, i], lengths[:, i], clock.last) for i, clock in enumerate(clocks)]


class _Clock:
    """Know when one copy has ended, by the rules of `relearn`."""

    def __init__(self, *, cap: int, run_on: float) -> None:
        self._cap, self._end, self._run_on = cap, cap, run_on
        self.last, self.over = 0, False

    def tell(self, step: int, mean: float, accuracy: float, target: Target) -> None:
        if self.over:
            return
        self.last = step
        self._end = ending(step, self._end, self._cap, met=reached(mean, accuracy, target), run_on=self._run_on)
        self.over = step >= self._end or not np.isfinite(mean)


class _Forward(nn.Module):
    """A network whose forward pass is the task's, so that the task's own path is vectorised."""

    def __init__(self, net: nn.Module, task: Classification) -> None:
        super().__init__()
        self.net, self.task = net, task

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of uint8 images."""
        return self.task.logits(self.net, images)


class _Stack:
    """Weights of k copies, one per row, and their sets: images (k, n, C, H, W), labels (k, n)."""

    def __init__(self, model: nn.Module, runs: Sequence[Relearner], task: Classification) -> None:
        nets: list[nn.Module] = [_Forward(scratch_copy(model), task) for _ in runs]
        self.weights, self._buffers = stack_module_state(nets)
        self.images = torch.stack([run.samples.images for run in runs])
        self.labels = torch.stack([run.samples.labels for run in runs])
        self._task = task
        self._skeleton = copy.deepcopy(nets[0]).to("meta")
        self._logits = vmap(self._one)

    def _one(self, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], images: Tensor) -> Tensor:
        # the buffers are read alone: norm statistics are frozen
        return functional_call(self._skeleton, ({**weights}, {**buffers}), (images,))  # type: ignore[no-any-return]

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (k, n, K) of the whole sets, detached, and the sum of the mean losses of the batches (k, B).

        The sum gives each copy the gradient of its own loss.
        """
        count = self.labels.shape[1]
        rest = torch.stack([complement(count, row) for row in index]).to(self.labels.device)
        index = index.to(self.labels.device)
        objective, ours = self.objective(index)
        rows = torch.arange(len(index), device=index.device)[:, None]
        logits = ours.new_empty(len(index), count, ours.shape[2])
        logits[rows, index] = ours.detach()
        if rest.shape[1]:
            with torch.no_grad():
                logits[rows, rest] = self._logits(self.weights, self._buffers, self.images[rows, rest])
        return logits, objective

    def objective(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the mean losses of the batches (k, B), and their logits (k, B, K)."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        ours = self._logits(self.weights, self._buffers, self.images[rows, index])
        per_sample = self._task.loss_of_logits(ours.flatten(0, 1), self.labels[rows, index].flatten())
        return per_sample.view(index.shape).mean(1).sum(), ours

    def losses(self, logits: Tensor) -> Tensor:
        """Return the loss (k, n) in nats of logits (k, n, K)."""
        return self._task.loss_of_logits(logits.flatten(0, 1), self.labels.flatten()).view(self.labels.shape)

    def walk(self, rule: torch.optim.Optimizer, objective: Tensor) -> Tensor:
        """Take a step and return its length in each copy, (k,)."""
        before = [w.detach().clone() for w in self.weights.values()]
        take_step(rule, objective)
        moved = zip(self.weights.values(), before, strict=True)
        return torch.stack([(w.detach() - b).flatten(1).square().sum(1) for w, b in moved]).sum(0).sqrt()


def _alone(model: nn.Module, run: Relearner, protocol: Protocol) -> Curve:
    return relearn(
        model,
        run.samples,
        task=protocol.task,
        rate=protocol.rate,
        target=protocol.target,
        cap=protocol.cap,
        seed=run.seed,
        batch_size=protocol.batch_size,
        optimizer=protocol.optimizer,
        run_on=protocol.run_on,
    )


def _cut(losses: Floats, accuracies: Floats, lengths: Floats, last: int) -> Curve:
    path = np.concatenate([[0.0], np.cumsum(lengths[:last])])
    return Curve(losses=losses[: last + 1], accuracies=accuracies[: last + 1], path=path)


def _groups(sizes: Sequence[int], at_once: int) -> list[list[int]]:
    """Return positions of equal size, `at_once` or fewer together."""
    groups = []
    for size in dict.fromkeys(sizes):
        members = [i for i, found in enumerate(sizes) if found == size]
        groups += [members[start : start + at_once] for start in range(0, len(members), at_once)]
    return groups
