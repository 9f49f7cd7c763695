"""Draw the controls once and measure one model from its logits. The draws are the same for every model."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ParamSpec

import torch
from torch import Tensor, nn

from workers.classification import Classification
from workers.evaluation.confusion import confusion
from workers.evaluation.forget_error import forget_error
from workers.evaluation.intervals import Floats
from workers.evaluation.mia_entropy_lr import mia_entropy_lr
from workers.evaluation.mia_loss_lr import mia_loss_lr
from workers.evaluation.mia_svc import mia_svc
from workers.evaluation.mia_threshold import auc_result, mia_threshold, score_arrays
from workers.evaluation.relearning import (
    DEFAULT_PROFILE,
    RelearningPlan,
    RelearningRuns,
    no_relearning,
    plan_relearning,
    relearning,
)
from workers.evaluation.result import MetricResult
from workers.evaluation.retain_side import retain_harm
from workers.evaluation.rf_jsd import rf_jsd
from workers.evaluation.unseen_controls import ControlPairs, draw_controls, in_rounds
from workers.evaluation.utility import accuracy_and_loss, gone_class_accuracy, utility
from workers.reproducibility import derived_seed
from workers.samples import LabelledSet

P = ParamSpec("P")
NOTHING_TO_RELEARN = (
    "the audit pool has no sample with a label of the forget set, or the original's loss on it is not finite"
)
RETAINED = "retained"
BySplit = Mapping[str, Tensor]
"""Logits (N, K) or labels (N,) on the CPU of retain, forget, audit and test.

Labels also have `retained`: those of the retain set where that set itself is gone and `retain` empty.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Hold the forget set's pairs, retained samples' pairs (first side retain), and the pairs of each request.

    `attack` has all rounds of controls, for attacks that need no equal sides; its first is `pairs`.
    """

    pairs: ControlPairs
    attack: ControlPairs
    retain: ControlPairs
    requests: Mapping[str, ControlPairs]


def draw_pairs(labels: BySplit, groups: Mapping[str, Tensor], *, generator: torch.Generator) -> Draws:
    """Draw all pairs against the audit pool; requests have pairs of their own when there are several."""
    pairs = draw_controls(labels["forget"], labels["audit"], generator=generator)
    attack = in_rounds(pairs, labels["forget"], labels["audit"], generator=generator)
    retain = draw_controls(labels["retain"], labels["audit"], generator=generator)
    requests = {}
    for name, positions in groups.items() if len(groups) > 1 else ():
        asked = labels["forget"][positions.cpu()]
        own = draw_controls(asked, labels["audit"], generator=generator)
        own = in_rounds(own, asked, labels["audit"], generator=generator)
        requests[name] = ControlPairs(forget=positions.cpu()[own.forget], audit=own.audit)
    return Draws(pairs=pairs, attack=attack, retain=retain, requests=requests)


def measure_logits(logits: BySplit, parent: BySplit, labels: BySplit, draws: Draws, *, seed: int) -> list[MetricResult]:
    """Return what one model's logits tell; the parent's are compared with.

    `seed` cuts the folds and draws the training samples of the attacks that are learned.
    """
    pairs, rounds = draws.pairs, draws.attack.audit
    unseen = logits["audit"][pairs.audit], labels["audit"][pairs.audit]
    forget = logits["forget"][pairs.forget], labels["forget"][pairs.forget]
    retain, test = (logits["retain"], labels["retain"]), (logits["test"], labels["test"])
    asked = logits["forget"], labels["forget"]
    results = []
    for split in ("retain", "forget", "test"):
        results += timed(accuracy_and_loss, split, logits[split], labels[split])
    results += timed(accuracy_and_loss, "unseen", *unseen)
    sides = {"forget": asked, "unseen": (logits["audit"], labels["audit"])}
    results += timed(gone_class_accuracy, sides, classes_gone(labels))
    results += timed(utility, parent["test"], logits["test"], labels["test"], labels.get(RETAINED, labels["retain"]))
    results += timed(confusion, logits["test"], labels["test"], labels["forget"])
    results += timed(forget_error, forget, unseen)
    results += timed(mia_threshold, *forget, logits["audit"][rounds], labels["audit"][rounds])
    results += timed(mia_loss_lr, forget, unseen, seed=seed)
    results += timed(mia_entropy_lr, asked, retain=retain, test=test)
    results += timed(mia_svc, asked, retain=retain, test=test, seed=seed)
    results += timed(lambda: [rf_jsd(*asked, parent["audit"], labels["audit"])])
    results += timed(_retain_side, logits, parent, labels, draws)
    return results


def classes_gone(labels: BySplit) -> Tensor:
    """Return the labels of the forget set that are not in the retain set, ascending."""
    asked = torch.unique(labels["forget"])
    gone: Tensor = asked[~torch.isin(asked, labels.get(RETAINED, labels["retain"]))]
    return gone


def _retain_side(logits: BySplit, parent: BySplit, labels: BySplit, draws: Draws) -> list[MetricResult]:
    before, after = (phi_scores(each, labels, members="retain", pairs=draws.retain) for each in (parent, logits))
    return [auc_result("mia_threshold.phi.retain_auc", *after), retain_harm(before, after)]


def phi_auc(name: str, logits: BySplit, labels: BySplit, *, members: str, pairs: ControlPairs) -> MetricResult:
    """Return the AUC of phi between one split's samples and their controls."""
    return auc_result(name, *phi_scores(logits, labels, members=members, pairs=pairs))


def phi_scores(logits: BySplit, labels: BySplit, *, members: str, pairs: ControlPairs) -> tuple[Floats, Floats]:
    """Return phi of one split's samples and of their controls, as the attack reads it."""
    ours = score_arrays("phi", logits[members][pairs.forget], labels[members][pairs.forget])
    return ours, score_arrays("phi", logits["audit"][pairs.audit], labels["audit"][pairs.audit])


def plan_for_pairs(
    parent: nn.Module,
    forget: LabelledSet,
    audit: LabelledSet,
    pairs: ControlPairs,
    *,
    task: Classification,
    generator: torch.Generator,
    gone: Tensor,
) -> RelearningPlan | None:
    """Fix the relearning sets, with a draw of controls per seed; None when there is no control.

    Samples of classes that are `gone` come in only when there are no others: unseen ones are no yardstick for them.
    None too when the parent's own loss is not finite.
    """
    profile = DEFAULT_PROFILE
    index = pairs.forget
    left = index[~torch.isin(forget.labels.cpu()[index], gone)]
    chosen = forget.take((left if len(left) else index)[: profile.max_samples])
    if not len(chosen):
        return None
    unseen = []
    for _ in range(profile.seeds):
        drawn = draw_controls(chosen.labels, audit.labels, generator=generator)
        # sorted, so that equal sets are equal sample by sample
        unseen.append(audit.take(drawn.audit.sort().values))
    plan = plan_relearning(parent, chosen, unseen, task=task, seed=derived_seed(generator), profile=profile)
    return plan if math.isfinite(plan.target.loss) else None


def measure_runs(runs: RelearningRuns | None, plan: RelearningPlan | None, labels: BySplit) -> list[MetricResult]:
    """Return the relearning results; without runs, all not applicable."""
    if runs is None or plan is None:
        return no_relearning(NOTHING_TO_RELEARN)
    gone = classes_gone(labels)
    whole = bool(torch.isin(plan.forget.labels.cpu(), gone).all())
    return relearning(runs, plan, classes_gone=gone.tolist() if whole else ())


def timed(measure: Callable[P, list[MetricResult]], *args: P.args, **kwargs: P.kwargs) -> list[MetricResult]:
    """Return the results with the seconds the whole computation took on each."""
    start = time.perf_counter()
    results = measure(*args, **kwargs)
    seconds = time.perf_counter() - start
    return [replace(result, seconds=seconds) for result in results]
