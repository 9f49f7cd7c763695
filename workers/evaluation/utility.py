"""Accuracy, loss and what unlearning cost in test accuracy; all read logits computed once elsewhere."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.evaluation.intervals import Floats, mean_interval, paired_difference, wilson
from workers.evaluation.result import MetricResult
from workers.evaluation.scores import loss


def accuracy_and_loss(split: str, logits: Tensor, labels: Tensor) -> list[MetricResult]:
    """Return accuracy with Wilson's interval and mean loss with the normal one, for one split."""
    n = len(labels)
    if not n:
        names = ("accuracy", "loss")
        return [MetricResult(name=x, split=split, value=None, n=0, verdict="not_applicable") for x in names]
    hits = int((logits.argmax(1) == labels).sum())
    losses: Floats = loss(logits, labels).cpu().numpy()
    around = mean_interval(losses)
    if around is not None:
        around = max(0.0, around[0]), around[1]
    return [
        MetricResult(name="accuracy", split=split, value=hits / n, ci95=wilson(hits, n), n=n),
        MetricResult(name="loss", split=split, value=float(losses.mean()), ci95=around, n=n),
    ]


def gone_class_accuracy(sides: Mapping[str, tuple[Tensor, Tensor]], gone: Tensor) -> list[MetricResult]:
    """Return accuracy on samples whose label is in `gone`, by split; sides are (logits, labels). None without any."""
    results = []
    for split, (logits, labels) in sides.items() if len(gone) else ():
        found = torch.isin(labels, gone)
        accuracy = accuracy_and_loss(split, logits[found], labels[found])[0]
        results.append(replace(accuracy, name="gone_class_accuracy"))
    return results


def utility(before: Tensor, after: Tensor, labels: Tensor, retain_labels: Tensor) -> list[MetricResult]:
    """Compare test logits (N, K) of parent and unlearned model; accuracies only on labels still in `retain_labels`.

    A forgotten class is meant to be lost, so its samples count in the disagreement alone.
    """
    n = len(labels)
    differ = int((before.argmax(1) != after.argmax(1)).sum())
    disagreement = MetricResult(
        name="disagreement",
        split="test",
        value=differ / n if n else None,
        ci95=wilson(differ, n) if n else None,
        n=n,
        verdict="measured" if n else "not_applicable",
    )
    kept = torch.isin(labels, retain_labels)
    right_before = (before.argmax(1) == labels)[kept].double().cpu().numpy()
    right_after = (after.argmax(1) == labels)[kept].double().cpu().numpy()
    return [*_drops(right_before, right_after, labels[kept].cpu().numpy()), disagreement]


def _drops(before: Floats, after: Floats, classes: NDArray[np.int64]) -> list[MetricResult]:
    if not len(classes):
        names = ("utility_drop", "class_accuracy_drop")
        return [MetricResult(name=x, split="test", value=None, n=0, verdict="not_applicable") for x in names]
    drops = {int(c): float(np.mean((before - after)[classes == c])) for c in np.unique(classes)}
    worst = max(drops, key=lambda c: drops[c])
    return [
        MetricResult(
            name="utility_drop",
            split="test",
            value=float(np.mean(before - after)),
            ci95=paired_difference(before, after),
            n=len(classes),
            extra={"parent_accuracy": float(before.mean()), "accuracy": float(after.mean())},
        ),
        MetricResult(
            name="class_accuracy_drop",
            split="test",
            value=drops[worst],
            n=int(np.sum(classes == worst)),
            extra={"class": worst, "per_class": drops},
        ),
    ]


def weight_distance(parent: nn.Module, unlearned: nn.Module) -> MetricResult:
    """Return ||w_u - w_o|| / ||w_o|| over parameters; the same over norm-layer buffers in the extra."""
    buffers = {name: value for name, value in parent.named_buffers() if torch.is_floating_point(value)}
    theirs = dict(unlearned.named_buffers())
    return MetricResult(
        name="weight_distance",
        value=relative_distance(list(parent.parameters()), list(unlearned.parameters())),
        n=sum(w.numel() for w in parent.parameters()),
        extra={"buffers": relative_distance(list(buffers.values()), [theirs[name] for name in buffers])},
    )


def relative_distance(before: list[Tensor] | list[nn.Parameter], after: list[Tensor] | list[nn.Parameter]) -> float:
    """Return ||b - a|| / ||b|| over all tensors together, 0 where there is nothing to move."""
    moved = sum(float((b.detach() - a.detach()).double().square().sum()) for b, a in zip(before, after, strict=True))
    size = sum(float(b.detach().double().square().sum()) for b in before)
    return float(np.sqrt(moved / size)) if size else 0.0
