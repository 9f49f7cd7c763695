"""DELETE: Zhou et al., Decoupled Distillation to Erase, CVPR 2025, arXiv:2503.23751.

t, s: logits (N, K) of the frozen original and of the student, which starts as its copy; c: true class.

    q(x)   = softmax(t'), t' = t with t_c = -inf      what the original says of all classes but the true one
    minimise over D_f:  mean KL(q || softmax(s))      original first

Reads the forget set alone; the selection pool, where there is one, serves the choice among the epochs.
Where this differs from the paper, or it leaves it open:
- Norm layers and dropout are in eval mode throughout: no statistic of the forget set enters a buffer.
- Images are not augmented, so q is computed once.
- The paper takes its last epoch. Here the selection takes one: the rewind, and without a selection pool (or without
  the class) the first that has forgotten, since of classes that stay the last has far too many wrong.
- Rate and epochs are the published ones. The update rule is not named in the text open to us: Adam by default, whose
  steps do not depend on the scale of the network; SGD in the preset `paper`.
"""

import copy
import math
import time
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.functional import log_softmax

from service.catalogue.methods import DeleteConfig
from workers.samples import shuffled_batches
from workers.training import finite_mean, make_optimizer, take_step
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits, classifying
from workers.unlearning.selection import rewind_where_it_can
from workers.unlearning.trajectory import Trajectory, follow

MIN_STEPS = 8
"""Steps that an epoch should have where the set allows; a small set gets smaller batches."""


def delete(
    model: nn.Module, splits: UnlearningSplits, config: DeleteConfig, *, around: Surroundings
) -> UnlearningResult:
    """Run DELETE on a copy and return the epoch that the selection takes."""
    started = time.perf_counter()
    student = copy.deepcopy(model).eval()
    trajectory = Trajectory(student, splits, around)
    verdict = follow(student, deleting_epochs(student, splits, config, around), trajectory, 0)
    return trajectory.result(student, rewind_where_it_can, verdict, started)


def log_others(t: Tensor, c: Tensor) -> Tensor:
    """Return log q, (N, K), of the original's logits (N, K): -inf at the true class, all else renormalised."""
    return log_softmax(t.scatter(1, c[:, None], -math.inf), 1)


def divergence(log_q: Tensor, s: Tensor) -> Tensor:
    """Return KL(q || softmax(s)) as (N,); a class of which q has nothing counts nothing, whatever s says."""
    log_p, q = log_softmax(s, 1), log_q.exp()
    # 0 * -inf would be nan, in the value and in the slope
    return (q * (log_q.masked_fill(q == 0, 0.0) - log_p)).sum(1)


def deleting_epochs(
    student: nn.Module, splits: UnlearningSplits, config: DeleteConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Move `student`, in eval mode, by one epoch over the forget set per item; yield the epoch's mean divergence."""
    forget = splits.forget
    log_q = log_others(classifying(around).predict(student, forget), forget.labels)
    optimizer = make_optimizer(student.parameters(), config)
    batch_size = config.batch_size or min(64, max(8, len(forget) // MIN_STEPS))
    for e in range(1, config.epochs + 1):
        sums = []
        for index in shuffled_batches(len(forget), batch_size, generator=around.generator):
            s = classifying(around).logits(student, forget.take(index).images)
            loss = divergence(log_q[index.to(log_q.device)], s)
            take_step(optimizer, loss.mean())
            sums.append(loss.detach().sum())
        around.progress("unlearn", e, config.epochs)
        yield {"divergence": finite_mean(sums, len(forget), f"DELETE epoch {e}")}
