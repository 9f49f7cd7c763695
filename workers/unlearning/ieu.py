"""IEU, Influence Eliminating Unlearning: a reconstruction after Tran & Woo, 2026, arXiv:2604.09391.

The public text names the ingredients (degrade the forget set, weight decay, noise in the weights, keep the retain
set) but not their equations. What follows is ours.
theta: weights; L_r, L_f: the task's mean loss (cross-entropy, for a classifier) of one retain and one forget batch;
xi ~ N(0, I); C: the loss of a guess (log K, of K classes) unless it is named.

    g     = grad L_r - alpha grad min(L_f, C)
    theta <- (1 - eta lambda) theta - eta g + s rms(theta) xi                      for `epochs`
    then `tail_epochs` with alpha = s = 0, while eta falls to 0 by a cosine

- rms is taken per tensor; lambda and s leave biases and norm layers alone.
- g goes through the recipe's optimiser, whose momentum decay and noise never enter.
- Norm layers are in train mode for the retain batch, which fills their buffers, and in eval mode for the forget
  batch, so that no statistic of it enters them.
- One epoch is a pass over the retain set; forget batches are cycled.
- The epoch returned is the service's rewind's choice among those of the tail.
With alpha = lambda = s = 0 this is fine-tuning on the retain set.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from service.catalogue.methods import IeuConfig
from workers.samples import LabelledSet, shuffled_batches
from workers.training import finite_mean, make_optimizer, rate_factor, set_rate, steps_per_epoch, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import rewind_clear_of_known
from workers.unlearning.trajectory import Trajectory, follow
from workers.unlearning.weight_noise import feature_weights, noise_for, noise_source


def ieu(model: nn.Module, splits: UnlearningSplits, config: IeuConfig, *, around: Surroundings) -> UnlearningResult:
    """Run IEU on a copy; return the epoch of its tail that the rewind chooses."""
    started = time.perf_counter()
    student = copy.deepcopy(model)
    trajectory = Trajectory(student, splits, around)
    # accuracy comes back as the rate falls, at the very end: the guard against lost accuracy would come too soon
    planned = config.epochs + config.tail_epochs
    verdict = follow(student, Elimination(student, splits, config, around).run(), trajectory, planned)
    settled_after = config.epochs if config.tail_epochs else 0
    choose = partial(rewind_clear_of_known, settled_after=settled_after)
    return trajectory.result(student, choose, verdict, started)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """The update that g goes through. It has no weight decay: IEU's own is taken apart from it."""

    optimizer: str
    lr: float
    momentum: float
    weight_decay: float = 0.0


class Elimination:
    """Hold the student, its optimiser, the batches to come, and where the noise is drawn from."""

    def __init__(self, student: nn.Module, splits: UnlearningSplits, config: IeuConfig, around: Surroundings) -> None:
        self.student, self.splits, self.config, self.around = student, splits, config, around
        recipe = around.recipe
        self.batch_size = config.retain_batch_size or recipe.batch_size
        self.eta = config.lr_share * recipe.lr if config.lr is None else config.lr
        momentum = recipe.momentum if config.momentum is None else config.momentum
        rule = Rule(optimizer=config.optimizer or recipe.optimizer, lr=self.eta, momentum=momentum)
        self._optimizer = make_optimizer(student.parameters(), rule)
        self._weights = feature_weights(student)
        self._source = noise_source(student, around.generator)
        self.forget_batches = self._endless()

    def run(self) -> Iterator[dict[str, float]]:
        """Move the student by one epoch per item; yield the mean losses met. Raises NonFiniteLossError."""
        config, planned = self.config, self.config.epochs + self.config.tail_epochs
        per_epoch = steps_per_epoch(len(self.splits.retain), self.batch_size)
        for e in range(1, planned + 1):
            if e <= config.epochs:
                rates = [self.eta] * per_epoch
                losses = self._epoch(rates, alpha=config.alpha, s=config.noise)
            else:
                done, total = (e - config.epochs - 1) * per_epoch, config.tail_epochs * per_epoch
                rates = [self.eta * rate_factor("cosine", done + step, total) for step in range(per_epoch)]
                losses = self._epoch(rates, alpha=0.0, s=0.0)
            self.around.progress("unlearn", e, planned)
            yield losses

    def _epoch(self, rates: list[float], *, alpha: float, s: float) -> dict[str, float]:
        retain, losses = self.splits.retain, []
        batches = shuffled_batches(len(retain), self.batch_size, generator=self.around.generator)
        for rate, index in zip(rates, batches, strict=True):
            losses.append(self.step(retain.take(index), rate=rate, alpha=alpha, s=s))
        self.student.eval()
        kept, raised = zip(*losses, strict=True)
        met = {"retain_loss": finite_mean(list(kept), len(kept), "an epoch's retain batches")}
        if alpha:
            met["forget_loss"] = finite_mean(list(raised), len(raised), "an epoch's forget batches")
        return met

    def step(self, retain: LabelledSet, *, rate: float, alpha: float, s: float) -> tuple[Tensor, Tensor]:
        """Take one step on a retain batch and, unless alpha is 0, the next forget batch; return both mean losses."""
        self.student.train()
        L_r = self.around.task.per_sample_loss(self.student, retain.images, retain.labels).mean()
        L_f, capped = self._forget_loss() if alpha else (torch.zeros_like(L_r), 0.0)
        shifts = noise_for(self._weights, s, self._source)
        with torch.no_grad():
            for w, shift in zip(self._weights, shifts, strict=True):
                shift.sub_(w, alpha=rate * self.config.decay)
        set_rate(self._optimizer, rate)
        take_step(self._optimizer, L_r - alpha * capped)
        with torch.no_grad():
            for w, shift in zip(self._weights, shifts, strict=True):
                w.add_(shift)
        return L_r.detach(), L_f.detach()

    def _forget_loss(self) -> tuple[Tensor, Tensor]:
        """Return L_f and min(L_f, C) on the next forget batch, in eval mode."""
        batch = self.splits.forget.take(next(self.forget_batches))
        self.student.eval()
        task = self.around.task
        outputs = task.outputs(self.student, batch.images, batch.labels)
        L_f = task.loss_of_outputs(outputs, batch.labels).mean()
        C = task.guess_loss(outputs) if self.config.cap is None else self.config.cap
        return L_f, L_f.clamp(max=C)

    def _endless(self) -> Iterator[Tensor]:
        while True:
            yield from shuffled_batches(
                len(self.splits.forget), self.config.forget_batch_size, generator=self.around.generator
            )
