"""Incompetent teacher: Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023, arXiv:2205.08096.

T_s: the original, frozen. T_d: a net of the same architecture, freshly initialised, frozen. S: the student, which
starts as a copy of the original. l_u: 1 for a forgotten sample, 0 for a retained one.

    minimise  mean over both sets of  (1 - l_u) KL(T_s || S) + l_u KL(T_d || S)        temperature 1

Retained are a share of the retain set, drawn once; both sets are shuffled as one.

Where this differs from the paper, or it leaves it open:
- Images are not augmented, so what the teachers say, in eval mode, is computed once.
- The student's norm layers are in eval mode: no statistic of the forget set enters a buffer. Dropout is on.
- Batch size and share of the retain set are ours; the paper's text was not at hand for them.
- The last epoch within the allowed drop of accuracy is returned. On small sets the published single epoch is a few
  steps and may move next to nothing.
"""

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from service.catalogue.methods import BadTeacherConfig
from workers.classification import device_of
from workers.reproducibility import derived_seed
from workers.samples import LabelledSet, joined, shuffled_batches
from workers.training import finite_mean, make_optimizer, take_step
from workers.unlearning.delete import divergence
from workers.unlearning.interface import Surroundings, UnlearningResult, UnlearningSplits, classifying
from workers.unlearning.salun import train_but_norm_layers
from workers.unlearning.selection import last_within
from workers.unlearning.teacher import teacher_logits
from workers.unlearning.trajectory import Trajectory, follow


def bad_teacher(
    model: nn.Module, splits: UnlearningSplits, config: BadTeacherConfig, *, around: Surroundings
) -> UnlearningResult:
    """Teach a copy by both teachers; return its last epoch within the allowed drop of accuracy."""
    started = time.perf_counter()
    student = copy.deepcopy(model)
    trajectory = Trajectory(student, splits, around)
    verdict = follow(student, taught_epochs(student, splits, config, around), trajectory, 0)
    return trajectory.result(student, last_within, verdict, started)


def lesson(
    original: nn.Module, splits: UnlearningSplits, retain_share: float, around: Surroundings
) -> tuple[LabelledSet, Tensor]:
    """Return the retained samples drawn, then all forgotten, and their teachers' log probabilities (N, K)."""
    task = classifying(around)
    untrained = around.build_model(derived_seed(around.generator)).to(device_of(original))
    count = max(1, round(retain_share * len(splits.retain)))
    index = torch.randperm(len(splits.retain), generator=around.generator)[:count]
    drawn = splits.retain.take(index)
    prepared = "teacher_logits" in around.prepared
    known = teacher_logits(original, splits, around)[0][index] if prepared else task.predict(original, drawn)
    said = [known, task.predict(untrained, splits.forget)]
    return joined(drawn, splits.forget), log_softmax(torch.cat(said), 1)


def taught_epochs(
    student: nn.Module, splits: UnlearningSplits, config: BadTeacherConfig, around: Surroundings
) -> Iterator[dict[str, float]]:
    """Move `student`, a copy of the original, by one epoch per item; yield the epoch's mean divergence."""
    both, log_q = lesson(student, splits, config.retain_share, around)
    optimizer = make_optimizer(student.parameters(), config)
    for e in range(1, config.epochs + 1):
        train_but_norm_layers(student)
        sums = []
        for index in shuffled_batches(len(both), config.batch_size, generator=around.generator):
            s = classifying(around).logits(student, both.take(index).images)
            loss = divergence(log_q[index.to(log_q.device)], s)
            take_step(optimizer, loss.mean())
            sums.append(loss.detach().sum())
        student.eval()
        around.progress("unlearn", e, config.epochs)
        yield {"loss": finite_mean(sums, len(both), f"bad teacher epoch {e}")}
