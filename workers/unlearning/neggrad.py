"""NegGrad: gradient ascent on the forget set, e.g. Golatkar et al., CVPR 2020, arXiv:1911.04933.

    maximise  CE(D_f)        a forget batch per step, mean of its samples

The retain set is never read. CE has no upper bound and nothing holds the rest of the model in place, so that enough
steps end in collapse: the baseline is published as inadequate alone. What is left open there:
- Rate and steps. The rate is small and of its own, without momentum, which would carry on where the push should end.
- Norm layers and dropout are in eval mode throughout: no statistic of the forget set enters a buffer.
- The epoch. The selection takes one by the pool: the rewind, or, where the class is gone, the first that has forgotten.
  The guard ends a run that stays below the accuracy floor; where no epoch kept it, UtilityLostError says so.
"""

import copy
import time
from collections.abc import Iterator

from torch import nn

from service.catalogue.methods import NegGradConfig
from workers.samples import shuffled_batches
from workers.training import finite_mean, make_optimizer, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits
from workers.unlearning.selection import rewind_where_it_can
from workers.unlearning.trajectory import Trajectory, follow

MIN_STEPS = 8
"""Steps that an epoch should have where the set allows; a small set gets smaller batches."""


def neggrad(
    model: nn.Module, splits: UnlearningSplits, config: NegGradConfig, *, around: Surroundings
) -> UnlearningResult:
    """Run NegGrad on a copy; return the epoch that the selection takes. Raises UtilityLostError on collapse."""
    started = time.perf_counter()
    moved = copy.deepcopy(model).eval()
    trajectory = Trajectory(moved, splits, around)
    # no later epoch repairs anything: the guard watches from the first
    verdict = follow(moved, ascending_epochs(moved, splits, config, around), trajectory, 0)
    return trajectory.result(moved, rewind_where_it_can, verdict, started)


def ascending_epochs(
    model: nn.Module, splits: UnlearningSplits, config: NegGradConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Move `model`, in eval mode, by one epoch over the forget set per item; yield the mean loss that it raised."""
    forget = splits.forget
    optimizer = make_optimizer(model.parameters(), config)
    batch_size = config.batch_size or min(64, max(8, len(forget) // MIN_STEPS))
    for e in range(1, config.epochs + 1):
        sums = []
        for index in shuffled_batches(len(forget), batch_size, generator=around.generator):
            batch = forget.take(index)
            loss = around.task.per_sample_loss(model, batch.images, batch.labels)
            take_step(optimizer, -loss.mean())
            sums.append(loss.detach().sum())
        around.progress("unlearn", e, config.epochs)
        yield {"loss": finite_mean(sums, len(forget), f"NegGrad epoch {e}")}
