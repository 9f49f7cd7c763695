"""SCRUB and SCRUB+R: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023, arXiv:2302.09880.

t, s: logits (N, K) of teacher (the frozen original, eval mode) and student (starts as its copy).
T: temperature.

    d(x)  = T^2 KL(softmax(t/T) || softmax(s/T))                       section 3.1, teacher first
    max epoch, over the forget set:  minimise  -mean d                  labels unused
    min epoch, over the retain set:  minimise  gamma CE + alpha mean d
    epoch e = 1..E: a max epoch if e <= msteps, then always a min epoch; one optimiser state for both;
    rate lr 0.1^(number of decay epochs < e)

Where this differs from the paper, or the paper leaves it open:
- The teacher sees unaugmented data, so its logits are computed once. Where the task draws noise for each step, the
  teacher is asked anew, on the draws of its student.
- d is the task's: for a diffusion model the mean squared difference of the noise predicted, which needs no T. There
  gamma weighs the mean squared error of the noise in the place of CE.
- Norm layers are in eval mode in max epochs, so that no statistic of the forget set enters their buffers,
  and in train mode in min epochs, which fill the buffers from retained samples alone.
- d starts at 0 with a gradient of 0 and has no upper bound: its ascent stands still, then explodes. With
  `push_norm` the gradient of max steps is scaled to one norm; in SCRUB+R `adapt_push` moves that norm from
  epoch to epoch, towards the loss the rewind aims at. The paper's presets use neither.
- Left null, optimiser and rate follow the recipe: half its rate moves the weights far enough to lose what
  only the forget set taught, which the paper's small rates do not; the rate's fall then restores accuracy.
- Left null, the forget batch makes at most 12 max steps an epoch: at 64 a batch, the 94 steps of 6,000 samples lost
  accuracy that no later epoch brought back.
- anchor_p adds p * sum over tensors of ||w - w_original||_F to both objectives (0 by default).
- SCRUB+R goes on for up to `more_epochs` epochs of both halves while few it has seen are fit to be returned:
  the best of several loses less accuracy than the first.
SCRUB returns its last epoch within the allowed drop of accuracy, SCRUB+R the epoch the rewind chooses.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from service.catalogue.methods import ScrubConfig, ScrubRConfig
from service.catalogue.recipe import Recipe
from workers.samples import LabelledSet, shuffled_batches
from workers.task import Teacher
from workers.training import finite_mean, make_optimizer, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.push import Push, constant_push, governed_push
from workers.unlearning.selection import clear_epochs, last_within, rewind_by_error, rewind_clear_of_known
from workers.unlearning.steps import Steps, steps_for
from workers.unlearning.teacher import teachers
from workers.unlearning.trajectory import Trajectory, follow

RECIPE_RATE_SHARE = 0.5
MOST_PUSHES = 12
"""Max steps of an epoch, where the batch is ours to choose. Each moves the weights by as much, whatever its batch."""
ENOUGH_TO_CHOOSE = 5
"""Epochs fit to be returned after which SCRUB+R ends."""


def scrub(model: nn.Module, splits: UnlearningSplits, config: ScrubConfig, *, around: Surroundings) -> UnlearningResult:
    """Run SCRUB and return its last epoch within the allowed drop of accuracy."""
    started = time.perf_counter()
    student = copy.deepcopy(model)
    trajectory = Trajectory(student, splits, around)
    epochs = student_epochs(student, splits, config, around, push=constant_push(config.push_norm))
    verdict = follow(student, epochs, trajectory, config.msteps)
    return trajectory.result(student, last_within, verdict, started)


def scrub_r(
    model: nn.Module, splits: UnlearningSplits, config: ScrubRConfig, *, around: Surroundings
) -> UnlearningResult:
    """Run SCRUB and return the epoch the rewind chooses."""
    started = time.perf_counter()
    student = copy.deepcopy(model)
    trajectory = Trajectory(student, splits, around)
    settled_after = max((e for e in config.lr_decay_epochs if e < config.epochs), default=0)
    push = constant_push(config.push_norm)
    if config.adapt_push:
        push = governed_push(config.push_norm, trajectory, unsettled=settled_after)
    goes_on = partial(_unfinished, trajectory, config.more_epochs, settled_after)
    epochs = student_epochs(student, splits, config, around, push=push, goes_on=goes_on)
    verdict = follow(student, epochs, trajectory, config.msteps)
    if config.rewind == "paper":
        return trajectory.result(student, rewind_by_error, verdict, started)
    choose = partial(rewind_clear_of_known, settled_after=settled_after)
    return trajectory.result(student, choose, verdict, started)


def _unfinished(trajectory: Trajectory, more: int, settled_after: int, done: int) -> bool:
    """Say whether one of the `more` epochs should follow the `done` beyond the planned ones."""
    fit = clear_epochs(trajectory.records, trajectory.terms, settled_after=settled_after)
    return done < more and fit < ENOUGH_TO_CHOOSE


def rate_share(config: ScrubConfig, e: int) -> float:
    """Return the learning rate of epoch e = 1..E as a share of the first."""
    return config.lr_decay_rate ** sum(decay < e for decay in config.lr_decay_epochs)


def never(_: int) -> bool:
    """Ask for no epoch beyond the planned ones."""
    return False


def student_epochs(
    student: nn.Module,
    splits: UnlearningSplits,
    config: ScrubConfig,
    around: Surroundings,
    *,
    push: Push,
    goes_on: Callable[[int], bool] = never,
) -> Iterator[dict[str, float]]:
    """Move `student` (a copy of the original) by one epoch per item; yield the epoch's mean objectives.

    `push` is asked before every max epoch. After the planned epochs others of both halves follow while
    `goes_on`, given their number so far, says so.
    """
    lesson = Lesson(student, splits, config, around)
    for e in count(1):
        if e > config.epochs and not goes_on(e - config.epochs - 1):
            return
        lesson.set_rate(lesson.steps.lr * rate_share(config, e))
        pushed = e <= config.msteps or e > config.epochs
        moved = {"max_distance": lesson.max_epoch(e, push())} if pushed else {}
        moved["min_loss"] = lesson.min_epoch(e)
        student.eval()
        around.progress("unlearn", e, max(e, config.epochs))
        yield moved


def lesson_steps(config: ScrubConfig, recipe: Recipe, *, retain: int, forget: int) -> Steps:
    """Fill what is left null, for sets of these sizes."""
    steps = steps_for(config, recipe, rate_share=RECIPE_RATE_SHARE, retain_count=retain, forget_count=forget)
    if config.forget_batch_size is not None:
        return steps
    return replace(steps, forget_batch_size=max(steps.forget_batch_size, math.ceil(forget / MOST_PUSHES)))


class Lesson:
    """Hold the student, its one optimiser, and the teacher on both sets."""

    def __init__(self, student: nn.Module, splits: UnlearningSplits, config: ScrubConfig, around: Surroundings) -> None:
        self.student, self.splits, self.config, self.around = student, splits, config, around
        self.steps = lesson_steps(config, around.recipe, retain=len(splits.retain), forget=len(splits.forget))
        self.optimizer = make_optimizer(student.parameters(), self.steps)
        self._original = [p.detach().clone() for p in student.parameters()]
        self._teach_retain, self._teach_forget = teachers(student, splits, around)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the steps to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def max_epoch(self, epoch: int, norm: float | None) -> float:
        """Ascend d over the forget set once; return the mean d met. Raises NonFiniteLossError.

        `norm` is what every gradient is scaled to; None leaves it as it is.
        """
        self.student.eval()
        sums = []
        for s, t, _ in self._batches(self.splits.forget, self._teach_forget, self.steps.forget_batch_size):
            d = self.around.task.distance(t, s, self.config.temperature)
            take_step(self.optimizer, self._anchored(-d.mean()), grad_norm=norm)
            sums.append(d.detach().sum())
        return finite_mean(sums, len(self.splits.forget), f"max epoch {epoch}")

    def min_epoch(self, epoch: int) -> float:
        """Descend gamma CE + alpha d over the retain set once; return its mean. Raises NonFiniteLossError."""
        self.student.train()
        task, sums = self.around.task, []
        for s, t, y in self._batches(self.splits.retain, self._teach_retain, self.steps.retain_batch_size):
            ce, d = task.loss_of_outputs(s, y), task.distance(t, s, self.config.temperature)
            loss = self.config.gamma * ce + self.config.alpha * d
            take_step(self.optimizer, self._anchored(loss.mean()))
            sums.append(loss.detach().sum())
        return finite_mean(sums, len(self.splits.retain), f"min epoch {epoch}")

    def _anchored(self, objective: Tensor) -> Tensor:
        if self.config.anchor_p == 0:
            return objective
        pairs = zip(self.student.parameters(), self._original, strict=True)
        norms = torch.stack([torch.linalg.vector_norm(w - w_0) for w, w_0 in pairs])
        return objective + self.config.anchor_p * norms.sum()

    def _batches(self, samples: LabelledSet, teach: Teacher, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for index in shuffled_batches(len(samples), size, generator=self.around.generator):
            batch = samples.take(index)
            t, s = teach(self.student, batch, index)
            yield s, t, batch.labels
