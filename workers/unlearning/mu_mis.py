"""MU-Mis: Cheng et al., Remaining-data-free Machine Unlearning, ICLR 2026, arXiv:2402.15109.

f: logits (N, K); c: true class; c': another class, drawn per sample at every evaluation of the loss; w: weights.

    L(D_f; w) = mean over D_f of ( ||grad_x f_c(x)||^2 - ||grad_x f_c'(x)||^2 )      minimised by double backward
    S_c'(w)   = mean over D_f of   ||grad_x f_c'(x)||,    r_t = S_c'(w_t) / S_c'(w_0)
    stop once r_t > delta and S_c'(w_t) is above the least seen so far

Reads the forget set alone; the selection pool, where there is one, serves the choice among the checks.
Where this differs from the paper, or its public text leaves it open:
- x is the network's input, pixels in [-1, 1]; another scale multiplies L and leaves r as it is.
- S is a mean of norms per sample over all of D_f, with c' drawn once; it is taken every `check_steps` steps.
- Norm layers and dropout are in eval mode throughout: no statistic of the forget set enters a buffer.
- Plain SGD. The rate is searched: where a check finds S changed by more than the factor `growth`, the steps since
  the last check are taken back and the rate is halved. The first rate is set by how far it moves the weights.
- Only the last layers move, two unless `last_layers` says otherwise. With all of them moving, as in the paper, a small
  net with batch norm lost its accuracy before half of a class was forgotten; with the head and the norm before it, the
  class went whole at no cost (README, `methods`). What lies before still tells the forgotten samples apart.
- delta is searched along the run: L has no lower bound, the same delta stops one net before it forgets and another
  after its collapse. Every check keeps its state and the selection takes one: the rewind, or without a selection
  pool (or without the class) the first that has forgotten, some checks after which the run ends. A delta that is
  named stops the run as in the paper.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from service.catalogue.methods import MuMisConfig
from workers.classification import PREDICT_BATCH, Classification
from workers.micro_batches import at_most
from workers.samples import LabelledSet, shuffled_batches
from workers.unlearning.double_backward import input_gradients, math_attention, refuse_once_differentiable
from workers.unlearning.interface import Surroundings, UnlearningError, UnlearningResult, UnlearningSplits, classifying
from workers.unlearning.last_layers import last_layers, layers_of
from workers.unlearning.selection import has_forgotten, last_within, rewind_where_it_can, wants_first_forgotten
from workers.unlearning.trajectory import Trajectory, follow

CHECKS_PER_PASS = 4
CHECKS_BEYOND = 3
"""Checks after the first that has forgotten, where the first such is wanted: one of them may keep more accuracy."""


def mu_mis(
    model: nn.Module, splits: UnlearningSplits, config: MuMisConfig, *, around: Surroundings
) -> UnlearningResult:
    """Run MU-Mis on a copy and return the check that the selection takes. Raises NoDoubleBackwardError."""
    started = time.perf_counter()
    student = copy.deepcopy(model).eval()
    refuse_once_differentiable(classifying(around), student, splits.forget.images[:1])
    descent = Descent(student, splits.forget, config, around)
    trajectory = Trajectory(student, splits, around)
    verdict = follow(student, descent.checks(partial(_forgotten, trajectory)), trajectory, 0)
    choose = rewind_where_it_can if config.delta is None else last_within
    result = trajectory.result(student, choose, verdict, started)
    spent = {"steps": descent.steps, "halvings": descent.halvings, "checks": len(trajectory.records) - 1}
    return replace(result, selection={**result.selection, "search": spent})


def never() -> bool:
    """Go on to the limits."""
    return False


def _forgotten(trajectory: Trajectory) -> bool:
    """Say whether the choice would be the first that has forgotten, and enough checks came after it."""
    done = [wants_first_forgotten(trajectory.terms) and has_forgotten(record, trajectory.records[0], trajectory.terms)
            for record in trajectory.records]  # fmt: skip
    return sum(done) > CHECKS_BEYOND


def sensitivity_gap(task: Classification, model: nn.Module, images: Tensor, c: Tensor, c_other: Tensor) -> Tensor:
    """Return ||grad_x f_c||^2 - ||grad_x f_c'||^2 as (N,)."""
    own, other = input_gradients(task, model, images, torch.stack([c, c_other], 1), twice=True)
    return own.flatten(1).square().sum(1) - other.flatten(1).square().sum(1)


def _moved(student: nn.Module, last: int | None) -> list[nn.Parameter]:
    """Return the weights that the steps move: those of the last layers, or all."""
    chosen = None if last is None else last_layers(student, min(last, len(layers_of(student)))).parameters
    return [w for name, w in student.named_parameters() if w.requires_grad and (chosen is None or name in chosen)]


def other_classes(c: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Draw c' != c per sample, evenly over the other classes."""
    return (c + torch.randint(1, classes, c.shape, generator=generator).to(c.device)) % classes


class Descent:
    """Hold the student, the batches to come, the rate, and the sensitivity that is watched."""

    def __init__(self, student: nn.Module, forget: LabelledSet, config: MuMisConfig, around: Surroundings) -> None:
        self.student, self.forget, self.config, self.around = student, forget, config, around
        self.weights = _moved(student, config.last_layers)
        self.steps = self.halvings = 0
        self._task = classifying(around)
        self._classes = self._task.classes(student, forget)
        self._watched = other_classes(forget.labels, self._classes, around.generator)
        self._batches = self._endless()
        self._lr = config.lr or self._first_rate()

    def checks(self, enough: Callable[[], bool] = never) -> Iterator[dict[str, float]]:
        """Move the student from check to check; yield the mean loss since the last, r, and the rate.

        Ends at delta, at the limits, where no rate is gentle, or, without delta, once there was `enough`.
        """
        first = least = s = self.sensitivity()
        for check in range(1, self.config.max_checks + 1):
            moved = self._advance(s)
            if moved is None:
                return
            loss, s = moved
            self.around.progress("unlearn", check, self.config.max_checks)
            yield {"loss": loss, "r": s / first, "lr": self._lr}
            if self.config.delta is not None and s / first > self.config.delta and s > least:
                return
            if self.config.delta is None and enough():
                return
            least = min(least, s)

    def gradient(self, index: Tensor) -> tuple[float, list[Tensor]]:
        """Return L on the samples at `index` and its gradient per weight, 0 where L does not depend on it."""
        batch = self.forget.take(index)
        c_other = other_classes(batch.labels, self._classes, self.around.generator)
        count = math.ceil(len(batch) / at_most(len(batch)))
        loss, sums = 0.0, [torch.zeros_like(w) for w in self.weights]
        for part in torch.tensor_split(torch.arange(len(batch), device=c_other.device), count):
            mine = batch.take(part)
            with math_attention():
                gaps = sensitivity_gap(self._task, self.student, mine.images, mine.labels, c_other[part])
                gap = gaps.sum() / len(batch)
                found = torch.autograd.grad(gap, self.weights, allow_unused=True, materialize_grads=True)
            loss, sums = loss + float(gap.detach()), [a + b for a, b in zip(sums, found, strict=True)]
        return loss, sums

    def sensitivity(self) -> float:
        """Return S_c' over all of D_f."""
        norms, size = [], at_most(min(PREDICT_BATCH, len(self.forget)))
        pieces = zip(torch.split(self.forget.images, size), torch.split(self._watched, size), strict=True)
        for images, c_other in pieces:
            (slope,) = input_gradients(self._task, self.student, images, c_other[:, None], twice=False)
            norms.append(slope.flatten(1).norm(dim=1))
        return float(torch.cat(norms).double().mean())

    def take_steps(self) -> float:
        """Move the student up to the next check, whatever comes of it; return the mean loss."""
        per_pass = math.ceil(len(self.forget) / self.config.batch_size)
        count = self.config.check_steps or math.ceil(per_pass / CHECKS_PER_PASS)
        losses = []
        for _ in range(count):
            loss, slopes = self.gradient(next(self._batches))
            with torch.no_grad():
                for w, slope in zip(self.weights, slopes, strict=True):
                    w.sub_(slope, alpha=self._lr)
            losses.append(loss)
        self.steps += count
        return sum(losses) / count

    def _advance(self, s: float) -> tuple[float, float] | None:
        """Go on to the next check at a rate that changes S gently; return the mean loss and S, None without one."""
        before = [w.detach().clone() for w in self.weights]
        while True:
            loss, found = self.take_steps(), self.sensitivity()
            if found > 0 and abs(math.log(found / s)) <= math.log(self.config.growth):
                return loss, found
            self._put_back(before)
            if self.halvings == self.config.max_halvings:
                return None
            self.halvings += 1
            self._lr /= 2

    @torch.no_grad()
    def _put_back(self, states: list[Tensor]) -> None:
        for w, state in zip(self.weights, states, strict=True):
            w.copy_(state)

    def _first_rate(self) -> float:
        """Return the rate whose first step moves the weights by `first_move` of their norm."""
        slope = float(get_total_norm(self.gradient(next(self._batches))[1]))
        if not 0 < slope < math.inf:
            raise UnlearningError(f"the sensitivity of the logits has no usable slope: its norm is {slope}")
        return self.config.first_move * float(get_total_norm([w.detach() for w in self.weights])) / slope

    def _endless(self) -> Iterator[Tensor]:
        while True:
            yield from shuffled_batches(len(self.forget), self.config.batch_size, generator=self.around.generator)
