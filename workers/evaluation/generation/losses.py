"""What the losses on common draws tell: utility, and the attack on membership by a threshold on the loss.

A sample's loss is the mean squared error of the noise predicted, over several timesteps, on draws that are its own:
every model is read on the same. Low for members. Yeom et al., CSF 2018, arXiv:1709.01604; on diffusion models as by
Carlini et al., USENIX Security 2023, arXiv:2301.13188.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from workers.diffusion import Diffusion
from workers.evaluation.intervals import Floats, auc_delong, mean_interval
from workers.evaluation.measure import Draws
from workers.evaluation.result import MetricResult
from workers.evaluation.retain_side import retain_harm
from workers.evaluation.roc import auc_result, no_figure
from workers.evaluation.unseen_controls import ControlPairs
from workers.samples import LabelledSet

LOSS_AUC, RISE = "mia_threshold.loss.auc", "loss_rise"
Losses = Mapping[str, Floats]
"""Losses (N, draws) by split: retain, forget, audit and test."""


def measured(task: Diffusion, model: nn.Module, samples: LabelledSet) -> Floats:
    """Return the losses (N, draws) of a set; none are (0, draws)."""
    if not len(samples):
        return np.zeros((0, task.measured_draws))
    losses: Floats = task.measured_losses(model, samples).double().cpu().numpy()
    return losses


def membership_scores(losses: Losses, pairs: ControlPairs, *, members: str = "forget") -> tuple[Floats, Floats]:
    """Return the scores of one split's samples and of their controls, larger for members."""
    sides = losses[members][pairs.forget.numpy()], losses["audit"][pairs.audit.numpy()]
    return -sides[0].mean(1), -sides[1].mean(1)


def measure_losses(losses: Losses, parent: Losses, kept: Tensor, draws: Draws) -> list[MetricResult]:
    """Return one model's results; the parent's losses are compared with.

    `kept` is bool over the test split: the label is still retained.
    """
    rows = {
        "retain": losses["retain"],
        "forget": losses["forget"],
        "test": losses["test"],
        "unseen": losses["audit"][draws.pairs.audit.numpy()],
    }
    both = [membership_scores(each, draws.retain, members="retain") for each in (parent, losses)]
    return [
        *(mean_loss(split, each.mean(1)) for split, each in rows.items()),
        loss_rise(parent["test"].mean(1)[kept.numpy()], losses["test"].mean(1)[kept.numpy()]),
        membership(losses, draws.attack),
        retain_harm(*both),
    ]


def mean_loss(split: str, losses: Floats) -> MetricResult:
    """Return the mean loss of a split with the normal interval."""
    n = len(losses)
    if not n:
        return MetricResult(name="loss", split=split, value=None, n=0, verdict="not_applicable")
    around = mean_interval(losses)
    if around is not None:
        around = max(0.0, around[0]), around[1]
    return MetricResult(name="loss", split=split, value=float(losses.mean()), ci95=around, n=n)


def loss_rise(before: Floats, after: Floats) -> MetricResult:
    """Return the rise of the mean loss as a share of the parent's, (n,) each, sample by sample on equal draws."""
    n = len(before)
    if not n or not float(before.mean()) > 0:
        return replace(no_figure(RISE, "not_applicable", "no test sample's label is retained"), split="test")
    shares = (after - before) / float(before.mean())
    return MetricResult(name=RISE, split="test", value=float(shares.mean()), ci95=mean_interval(shares), n=n)


def membership(losses: Losses, pairs: ControlPairs) -> MetricResult:
    """Return the attack's AUC; in `extra` that of each part of the timesteps alone, from the least noise on."""
    members, controls = membership_scores(losses, pairs)
    if not len(members) or not len(controls) or np.isnan(members).any() or np.isnan(controls).any():
        return auc_result(LOSS_AUC, members, controls)
    ours, theirs = losses["forget"][pairs.forget.numpy()], losses["audit"][pairs.audit.numpy()]
    parts = [auc_delong(-ours[:, j], -theirs[:, j])[0] for j in range(ours.shape[1])]
    return auc_result(LOSS_AUC, members, controls, extra={"by_part_of_timesteps": parts})


def attack_on_loss(
    model: nn.Module, *, task: Diffusion, audit_losses: Floats
) -> Callable[[LabelledSet, ControlPairs], list[MetricResult]]:
    """Return what measures mean loss and the attack on it; the audit pool's losses are that model's."""

    def attack(samples: LabelledSet, pairs: ControlPairs) -> list[MetricResult]:
        losses = measured(task, model, samples)
        return [mean_loss("forget", losses.mean(1)), membership({"forget": losses, "audit": audit_losses}, pairs)]

    return attack
