"""What the drawn images tell: are forgotten classes still drawn, and are retained ones drawn as well as before?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workers.evaluation.generation.drawn import Drawn, SamplingPlan
from workers.evaluation.generation.fid import Fid
from workers.evaluation.generation.frechet import Moments, frechet_distance, jackknife_interval, moments
from workers.evaluation.generation.inception import Absent
from workers.evaluation.generation.recogniser import TRUSTED
from workers.evaluation.intervals import paired_difference, wilson
from workers.evaluation.result import MetricResult, Verdict
from workers.evaluation.roc import no_figure

ACCURACY, DROP, FRECHET, FID = "generation_accuracy", "generation_drop", "frechet_distance", "fid"
NOT_FINITE = "the features of drawn images are not finite"


def generation_accuracy(drawn: Drawn, plan: SamplingPlan, classifier: Mapping[str, Any]) -> list[MetricResult]:
    """Return the share of images recognised as the class asked for, of retained classes and of those that are gone.

    `classifier` is what `disclosed` says: where it does not recognise real images of a side's classes, its word on
    drawn ones is inconclusive.
    """
    sides = {"forget": plan.forgotten, "retain": plan.retained}
    return [
        _share(split, drawn, plan.labels[rows], rows, classifier)
        for split, rows in sides.items()
        if plan.labels[rows].numel()
    ]


def generation_drop(before: Drawn, after: Drawn, plan: SamplingPlan, classifier: Mapping[str, Any]) -> MetricResult:
    """Return the fall of that share on retained classes, between two models that began with the same noise.

    Inconclusive where the share is: what recognises nothing sees nothing lost.
    """
    pair = [each.right[plan.retained].double().numpy() for each in (before, after)]
    if not len(pair[0]):
        return replace(no_figure(DROP, "not_applicable", "no class is retained"), split="retain")
    trust = _trust(plan.labels[plan.retained], classifier)
    return MetricResult(
        name=DROP,
        split="retain",
        value=float(np.mean(pair[0] - pair[1])),
        ci95=paired_difference(*pair),
        n=len(pair[0]),
        verdict=trust.verdict,
        extra={"parent": float(pair[0].mean()), "own": float(pair[1].mean()), **trust.extra},
    )


def frechet(drawn: Drawn, plan: SamplingPlan, real: Moments | None, *, unseen: float | None) -> MetricResult:
    """Return the distance of images of retained classes to real ones; `unseen` is that of unseen real images.

    A distance of few samples is too large by about as much as `unseen` is of as few: read differences.
    """
    features = drawn.features[plan.retained]
    if real is None or len(features) < 2:
        found = no_figure(FRECHET, "not_applicable", "needs 2 real and 2 drawn images of retained classes at least")
        return replace(found, split="retain")
    if not np.isfinite(features).all():
        return replace(no_figure(FRECHET, "inconclusive", NOT_FINITE, n=len(features)), split="retain")
    return MetricResult(
        name=FRECHET,
        split="retain",
        value=frechet_distance(moments(features), real),
        ci95=jackknife_interval(features, real),
        n=len(features),
        extra={"real_unseen": unseen, "features": features.shape[1]},
    )


def fid(drawn: Drawn, plan: SamplingPlan, measure: Fid | Absent) -> MetricResult:
    """Return FID of images of retained classes to real ones; without Inception's weights why there is none."""
    images = drawn.images[plan.retained]
    if isinstance(measure, Absent) or len(images) < 2:
        why = measure.why if isinstance(measure, Absent) else "needs 2 drawn images of retained classes at least"
        return replace(no_figure(FID, "not_applicable", why), split="retain")
    told = {
        "real_images": measure.real_images,
        "extractor_sha256": measure.sha256,
        "enlarged_from": [*images.shape[2:]],
    }
    return MetricResult(name=FID, split="retain", value=measure.of(images), n=len(images), extra=told)


def _share(split: str, drawn: Drawn, labels: Tensor, rows: slice, classifier: Mapping[str, Any]) -> MetricResult:
    right = drawn.right[rows]
    hits, n = int(right.sum()), len(right)
    per_class = {str(c): float(right[labels == c].double().mean()) for c in torch.unique(labels).tolist()}
    trust = _trust(labels, classifier)
    return MetricResult(
        name=ACCURACY,
        split=split,
        value=hits / n,
        ci95=wilson(hits, n),
        n=n,
        verdict=trust.verdict,
        extra={"per_class": per_class, **trust.extra},
    )


@dataclass(frozen=True, kw_only=True)
class _Trust:
    """What the classifier's word on drawn images of some classes is worth, and why."""

    verdict: Verdict
    extra: dict[str, Any]


def _trust(labels: Tensor, classifier: Mapping[str, Any]) -> _Trust:
    """Say it by the share of real images of these classes that it recognises."""
    classes = [str(c) for c in torch.unique(labels).tolist()]
    known = [classifier["per_class"][c] for c in classes if c in classifier["per_class"]]
    real = float(np.mean(known)) if known else None
    if real is not None and real >= TRUSTED:
        return _Trust(verdict="measured", extra={"real_images": real})
    reason = f"the classifier recognises too few real images of these classes ({TRUSTED:.0%} are needed)"
    return _Trust(verdict="inconclusive", extra={"real_images": real, "reason": reason})
