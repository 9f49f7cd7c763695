"""Interclass confusion on the test set: Goel et al. 2022, arXiv:2201.06640; Kurmanji et al. 2023, arXiv:2302.09880."""

import torch
from torch import Tensor

from workers.evaluation.intervals import wilson
from workers.evaluation.result import MetricResult


def confusion(logits: Tensor, labels: Tensor, forget_labels: Tensor) -> list[MetricResult]:
    """Return ic_err and fgt_err of test logits (N, K) for the two classes that the forget set's labels name.

    Not applicable unless there are exactly two, each with a test sample.
    """
    classes = torch.unique(forget_labels.cpu()).tolist()
    predicted, labels = logits.argmax(1).cpu(), labels.cpu()
    sides = [labels == label for label in classes]
    if len(classes) != 2 or not all(bool(side.any()) for side in sides):
        extra = {"reason": "the forget set must have two labels, and the test set samples of both"}
        return [
            MetricResult(name=name, split="test", value=None, n=0, verdict="not_applicable", extra=extra)
            for name in ("ic_err", "fgt_err")
        ]
    of_either = sides[0] | sides[1]
    n, wrong = int(of_either.sum()), int((of_either & (predicted != labels)).sum())
    crossed = sum(
        int((side & (predicted == other)).sum()) for side, other in zip(sides, reversed(classes), strict=True)
    )
    extra = {"classes": classes}
    return [
        MetricResult(name="ic_err", split="test", value=wrong / n, ci95=wilson(wrong, n), n=n, extra=extra),
        MetricResult(name="fgt_err", split="test", value=float(crossed), n=n, extra=extra),
    ]
