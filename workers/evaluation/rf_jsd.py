"""Divergence from the original's view of unseen data: what can be compared without a retrained model.

After Spartalis et al., CVPR 2025, arXiv:2503.18314: class by class, the mean predicted distribution of the unlearned
model on the forget set against that of the original on unseen samples. The mean over classes is taken plainly.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.evaluation.intervals import Z95
from workers.evaluation.js_divergence import jensen_shannon
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import NOT_A_NUMBER, no_figure

NAME = "rf_jsd"


@dataclass(frozen=True, kw_only=True)
class _ClassFigure:
    value: float
    variance: float
    bias: float


def rf_jsd(unlearned: Tensor, forget_labels: Tensor, original_unseen: Tensor, unseen_labels: Tensor) -> MetricResult:
    """Return the mean over classes of JS(mean output on D_f, mean output of the original on unseen samples).

    Logits (N, K) and (M, K). A class without unseen samples is left out and named. The interval is by the delta
    method around the value less its bias, which is what two means of few samples differ by on their own, and is widened
    to hold the value.
    """
    forget_labels, unseen_labels = forget_labels.cpu(), unseen_labels.cpu()
    wanted = set(forget_labels.tolist())
    classes = sorted(wanted & set(unseen_labels.tolist()))
    if not classes:
        return no_figure(NAME, "not_applicable", "no class of the forget set has an unseen sample")
    if not (bool(unlearned.isfinite().all()) and bool(original_unseen.isfinite().all())):
        return no_figure(NAME, "inconclusive", NOT_A_NUMBER, n=len(forget_labels))
    p, q = (logits.cpu().double().softmax(1) for logits in (unlearned, original_unseen))
    figures = {c: _of_class(p[forget_labels == c], q[unseen_labels == c]) for c in classes}
    value = math.fsum(f.value for f in figures.values()) / len(classes)
    bias = math.fsum(f.bias for f in figures.values()) / len(classes)
    # the bias is spread like itself: where the distributions are equal it is all the variance there is
    variance = math.fsum(f.variance + 2 * f.bias**2 for f in figures.values()) / len(classes) ** 2
    half = Z95 * math.sqrt(variance)
    low, high = max(0.0, value - bias - half), min(math.log(2), value - bias + half)
    return MetricResult(
        name=NAME,
        split="forget",
        value=value,
        ci95=(min(low, value), max(high, value)),
        n=int(sum(int((forget_labels == c).sum()) for c in classes)),
        extra={"per_class": {c: f.value for c, f in figures.items()}, "classes_left_out": sorted(wanted - {*classes})},
    )


def _of_class(p: Tensor, q: Tensor) -> _ClassFigure:
    """Return JS of the means of p (n, K) and q (m, K), its first-order variance and its second-order bias."""
    means = p.mean(0, keepdim=True), q.mean(0, keepdim=True)
    middle = (means[0] + means[1]) / 2
    variance = bias = 0.0
    for rows, mean in zip((p, q), means, strict=True):
        if len(rows) < 2:
            continue
        # d JS / d mean = log(mean / middle) / 2; the second derivative is 1 / (2 mean) - 1 / (4 middle)
        slope = torch.where(mean > 0, (mean / middle).log(), 0.0) / 2
        variance += float(((rows - mean) @ slope.T).var()) / len(rows)
        curve = torch.where(mean > 0, 1 / (2 * mean) - 1 / (4 * middle), 0.0)
        bias += float((curve * rows.var(0)).sum()) / (2 * len(rows))
    return _ClassFigure(value=float(jensen_shannon(*means)), variance=variance, bias=bias)
