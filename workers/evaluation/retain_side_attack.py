"""The retain-side attack: does training on retained samples alone bring the forgotten ones back?

A scratch copy, never the model given, is trained by the relearning protocol: SGD at one constant rate, norm
statistics frozen. What comes back without a single forget sample was hidden, not gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from workers.classification import Classification
from workers.evaluation.intervals import paired_difference
from workers.evaluation.paired_intervals import rate_difference
from workers.evaluation.relearning_curve import endless_batches, first_step, scratch_copy
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure
from workers.samples import LabelledSet
from workers.training import take_step

DELAY, RISE, EXCESS = "retain_side_delay", "retain_side_attack.rise", "retain_side_attack.excess"
NAMES = (DELAY, RISE, EXCESS)


@dataclass(frozen=True, kw_only=True)
class AttackProfile:
    """How long the attack lasts, and how often forget set and controls are read; in steps."""

    max_steps: int = 200
    every: int = 10
    batch_size: int = 128


DEFAULT_ATTACK = AttackProfile()


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackRun:
    """Hold what was classified rightly at each reading: forget (R, n) and unseen (R, m), of which m may be 0.

    steps (R,) ascend; the first reading is before any step. The last is short of the cap where a logit stopped being
    finite; none where it was not from the start.
    """

    steps: tuple[int, ...]
    forget: NDArray[np.bool_]
    unseen: NDArray[np.bool_]


def retain_side_attack(
    model: nn.Module,
    retain: LabelledSet,
    *,
    forget: LabelledSet,
    unseen: LabelledSet,
    task: Classification,
    rate: float,
    seed: int,
    parent_accuracy: float,
    classes_gone: Sequence[int] = (),
    profile: AttackProfile = DEFAULT_ATTACK,
) -> list[MetricResult]:
    """Return when the forget set was known again, how far its accuracy rose, and how far above unseen controls it got.

    `parent_accuracy` is the original's on `forget`, `unseen` has the labels of `forget`, `classes_gone` as in
    relearning. All sets lie on the model's device.
    """
    if not len(retain) or not len(forget):
        reason = f"needs at least 1 retained and 1 forget sample; there are {len(retain)} and {len(forget)}"
        return [no_figure(name, "not_applicable", reason) for name in NAMES]
    run = run_attack(model, retain, sides=(forget, unseen), task=task, rate=rate, seed=seed, profile=profile)
    return attack_results(run, parent_accuracy=parent_accuracy, classes_gone=classes_gone)


def run_attack(
    model: nn.Module,
    retain: LabelledSet,
    *,
    sides: tuple[LabelledSet, LabelledSet],
    task: Classification,
    rate: float,
    seed: int,
    profile: AttackProfile = DEFAULT_ATTACK,
) -> AttackRun:
    """Train a copy of `model` on `retain` alone, which is not empty, and read both sides on the way."""
    steps: list[int] = []
    read: list[list[NDArray[np.bool_]]] = []
    for step, scratch in _training(model, retain, task=task, rate=rate, seed=seed, profile=profile):
        right = _right(scratch, sides, task)
        if right is None:
            break
        steps.append(step)
        read.append(right)
    forget, unseen = (np.array([right[side] for right in read], dtype=bool) for side in (0, 1))
    return AttackRun(steps=tuple(steps), forget=forget, unseen=unseen)


def attack_results(run: AttackRun, *, parent_accuracy: float, classes_gone: Sequence[int] = ()) -> list[MetricResult]:
    """Return the figures of a run; without a reading they are inconclusive."""
    if not run.steps:
        return [no_figure(name, "inconclusive", NOT_A_NUMBER) for name in NAMES]
    return [_delay(run, 0.95 * parent_accuracy), _rise(run), _excess(run, classes_gone)]


def _training(
    model: nn.Module, retain: LabelledSet, *, task: Classification, rate: float, seed: int, profile: AttackProfile
) -> Iterator[tuple[int, nn.Module]]:
    """Yield the copy in training before the first step, every so many steps, and after the last."""
    scratch = scratch_copy(model)
    rule, batches = torch.optim.SGD(scratch.parameters(), rate), endless_batches(len(retain), profile.batch_size, seed)
    for step in range(profile.max_steps + 1):
        if step % profile.every == 0 or step == profile.max_steps:
            yield step, scratch
        if step < profile.max_steps:
            batch = retain.take(next(batches))
            take_step(rule, task.per_sample_loss(scratch, batch.images, batch.labels).mean())


def _right(model: nn.Module, sides: Sequence[LabelledSet], task: Classification) -> list[NDArray[np.bool_]] | None:
    """Return which samples of each side are classified rightly; None where a logit is not finite."""
    found = []
    for samples in sides:
        if not len(samples):
            found.append(np.zeros(0, dtype=bool))
            continue
        logits = task.predict(model, samples)
        if not bool(logits.isfinite().all()):
            return None
        found.append((logits.argmax(1) == samples.labels).cpu().numpy())
    return found


def _delay(run: AttackRun, known: float) -> MetricResult:
    accuracies, n = run.forget.mean(1), run.forget.shape[1]
    first = first_step(accuracies >= known)
    return MetricResult(
        name=DELAY,
        split="forget",
        value=float(run.steps[-1 if first is None else first]),
        n=n,
        threshold=known,
        censored=True if first is None else None,
        extra={
            "steps": list(run.steps),
            "forget_accuracy": accuracies.tolist(),
            "unseen_accuracy": run.unseen.mean(1).tolist() if run.unseen.size else None,
        },
    )


def _rise(run: AttackRun) -> MetricResult:
    """Return the forget accuracy at the last reading, which nobody has chosen, minus that at the first."""
    first, last = run.forget[0].astype(np.float64), run.forget[-1].astype(np.float64)
    extra = {"before": float(first.mean()), "after": float(last.mean()), "steps": run.steps[-1]}
    return MetricResult(
        name=RISE,
        split="forget",
        value=float(last.mean() - first.mean()),
        ci95=paired_difference(last, first),
        n=len(first),
        extra=extra,
    )


def _excess(run: AttackRun, classes_gone: Sequence[int]) -> MetricResult:
    """Return the highest forget accuracy minus the controls' own highest, so that picking a step favours neither."""
    if classes_gone:
        reason = "nothing of these classes is left in the retain set: " + ", ".join(map(str, classes_gone))
        return no_figure(EXCESS, "not_applicable", reason)
    if not run.unseen.size:
        return no_figure(EXCESS, "not_applicable", "no unseen control has a label of the forget set")
    n, m = run.forget.shape[1], run.unseen.shape[1]
    ours, theirs = (int(side.sum(1).max()) for side in (run.forget, run.unseen))
    found = rate_difference(ours, n, theirs, m)
    extra = {
        "forget_accuracy": ours / n,
        "unseen_accuracy": theirs / m,
        "at_step": run.steps[int(run.forget.sum(1).argmax())],
    }
    return MetricResult(name=EXCESS, split="forget", value=found.value, ci95=found.ci95, n=n, extra=extra)
