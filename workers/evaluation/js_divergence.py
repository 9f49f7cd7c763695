"""The Jensen-Shannon divergence (Lin 1991) between what two models predict for the same samples."""

import math

import torch
from torch import Tensor

from workers.evaluation.intervals import Floats, mean_interval
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure

NAME = "js_divergence"


def js_divergence(unlearned: Tensor, retrained: Tensor) -> MetricResult:
    """Return the mean over forget samples of JS between the predicted distributions; logits (N, K) each."""
    if not len(unlearned):
        return no_figure(NAME, "not_applicable", "needs at least 1 forget sample; there is none")
    if not (bool(unlearned.isfinite().all()) and bool(retrained.isfinite().all())):
        return no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=len(unlearned))
    p, q = (logits.double().softmax(1) for logits in (unlearned, retrained))
    values: Floats = jensen_shannon(p, q).cpu().numpy()
    around = mean_interval(values)
    if around is not None:
        around = max(0.0, around[0]), min(math.log(2), around[1])
    return MetricResult(name=NAME, split="forget", value=float(values.mean()), ci95=around, n=len(values))


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || m) / 2 + KL(q || m) / 2, m = (p + q) / 2, for rows that sum to 1, (N,); nats, in [0, ln 2].

    The mixture is the second argument of both: the other way round is unbounded.
    """
    m = (p + q) / 2
    # half of the smallest number there is rounds to 0: such a share weighs nothing
    counted = m > 0
    both = [torch.where(counted, torch.xlogy(side, side) - torch.xlogy(side, m), 0.0) for side in (p, q)]
    return ((both[0] + both[1]).sum(1) / 2).clamp(0.0, math.log(2))
