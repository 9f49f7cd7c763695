"""NegGrad+: the baseline of Kurmanji et al., NeurIPS 2023, arXiv:2302.09880, section 3.

    minimise  beta CE(D_r) - (1 - beta) CE(D_f)        a retain and a forget batch per step, means of each

An epoch passes once over the retain set D_r; the batches of the forget set D_f are cycled beside it.

Where this differs from the paper, or the paper leaves it open:
- CE on D_f has no upper bound, so its ascent ends in collapse. With `forget_cap` C the objective takes
  min(CE, C log K) per forgotten sample: one that is wrong by as much as a guess pulls no further. For another task
  its loss stands for CE and that of its guess for log K.
- `tail_epochs` passes over D_r alone follow (beta = 1) while the rate falls to 0 by a cosine, which bring back
  accuracy and not the forget set.
- Both batches pass through the net as one, norm layers and dropout in train mode: with the forget batch in eval
  mode the two losses part, since a push that the batch's own statistics undo is repaired by no retain step.
  What it adds to the norm layers' buffers the tail replaces, by retained samples alone; without a tail, as in the
  paper's presets, it stays.
- Left null, optimiser and rate follow the recipe. The rewind chooses the epoch returned, among those of the
  tail where there is one; the paper's presets take the last within the allowed drop of accuracy.
"""

import copy
import time
from collections.abc import Iterator

from torch import Tensor, nn

from service.catalogue.methods import NegGradPlusConfig
from workers.samples import LabelledSet, joined, shuffled_batches
from workers.task import Task
from workers.training import finite_mean, make_optimizer, set_rate, steps_per_epoch, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import chooser_for
from workers.unlearning.steps import cycled_batches, planned_with_tail, rates_of_epoch, steps_for
from workers.unlearning.trajectory import Trajectory, follow

RECIPE_RATE_SHARE = 0.5


def neggrad_plus(
    model: nn.Module, splits: UnlearningSplits, config: NegGradPlusConfig, *, around: Surroundings
) -> UnlearningResult:
    """Run NegGrad+ on a copy and return the epoch that `rewind` chooses."""
    started = time.perf_counter()
    moved = copy.deepcopy(model)
    trajectory = Trajectory(moved, splits, around)
    repaired_after = config.epochs if config.tail_epochs else 0
    verdict = follow(moved, neggrad_plus_epochs(moved, splits, config, around), trajectory, planned_with_tail(config))
    return trajectory.result(moved, chooser_for(config.rewind, settled_after=repaired_after), verdict, started)


def neggrad_plus_epochs(
    model: nn.Module, splits: UnlearningSplits, config: NegGradPlusConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Move `model` by one epoch per item; yield its mean objective."""
    counts = {"retain_count": len(splits.retain), "forget_count": len(splits.forget)}
    steps = steps_for(config, around.recipe, rate_share=RECIPE_RATE_SHARE, **counts)
    optimizer = make_optimizer(model.parameters(), steps)
    cycled = cycled_batches(len(splits.forget), steps.forget_batch_size, generator=around.generator)
    total = config.epochs + config.tail_epochs
    per_epoch = steps_per_epoch(len(splits.retain), steps.retain_batch_size)
    for e in range(1, total + 1):
        tail = e > config.epochs
        rates = rates_of_epoch(e, per_epoch, config, steps.lr)
        model.train()
        sums = []
        batches = shuffled_batches(len(splits.retain), steps.retain_batch_size, generator=around.generator)
        for rate, index in zip(rates, batches, strict=True):
            set_rate(optimizer, rate)
            retained = splits.retain.take(index)
            forgotten = None if tail else splits.forget.take(next(cycled))
            objective = neggrad_plus_objective(model, retained, forgotten, config, around.task)
            take_step(optimizer, objective)
            sums.append(objective.detach() * len(retained))
        model.eval()
        around.progress("unlearn", e, total)
        yield {"loss": finite_mean(sums, len(splits.retain), f"NegGrad+ epoch {e}")}


def neggrad_plus_objective(
    model: nn.Module,
    retained: LabelledSet,
    forgotten: LabelledSet | None,
    config: NegGradPlusConfig,
    task: Task,
) -> Tensor:
    """Return beta CE(retained) - (1 - beta) CE(forgotten), the latter capped; without any forgotten, CE(retained)."""
    if forgotten is None:
        return task.per_sample_loss(model, retained.images, retained.labels).mean()
    both = joined(retained, forgotten)
    outputs = task.outputs(model, both.images, both.labels)
    kept, lost = outputs[: len(retained)], outputs[len(retained) :]
    rising = capped(task.loss_of_outputs(lost, forgotten.labels), config.forget_cap, task.guess_loss(outputs))
    return config.beta * task.loss_of_outputs(kept, retained.labels).mean() - (1 - config.beta) * rising.mean()


def capped(losses: Tensor, cap: float | None, guess: float) -> Tensor:
    """Return min(loss, cap times that of a guess) per sample; a cap of None leaves the losses as they are."""
    return losses if cap is None else losses.clamp(max=cap * guess)
