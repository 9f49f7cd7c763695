"""Where images are drawn and looked at: one classifier, one plan and one set of real images for every model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workers.architectures import ImageShape
from workers.architectures.ddpm import Ddpm
from workers.evaluation.generation import figures
from workers.evaluation.generation.drawn import Drawn, SamplingPlan, SamplingProfile, draw, plan_sampling
from workers.evaluation.generation.fid import Fid, fid_to
from workers.evaluation.generation.frechet import Moments, class_weights, frechet_distance, moments
from workers.evaluation.generation.inception import NOT_NAMED, Absent, Extractor
from workers.evaluation.generation.recogniser import Recogniser, disclosed, recogniser_for
from workers.evaluation.measure import RETAINED, BySplit, classes_gone
from workers.evaluation.report import EvaluationSplits
from workers.evaluation.result import MetricResult
from workers.evaluation.roc import no_figure
from workers.samples import LabelledSet

NO_CLASSIFIER = "the selection and the population pool have no sample that the classifier could learn from"
NOT_TOLD = "the network draws without being told a class"
UNMEASURED = (figures.ACCURACY, figures.DROP, figures.FRECHET, figures.FID)


@dataclass(frozen=True, kw_only=True, eq=False)
class Studio:
    """What every model's images are drawn by and looked at with, and the real ones they are compared with.

    `classifier` is what may be said of the recogniser. `real_unseen` is the distance of unseen real images to the real
    ones, None where there is nothing beside them. `told` says whether the networks are told the class.
    """

    plan: SamplingPlan
    recogniser: Recogniser
    shape: ImageShape
    real: Moments | None
    real_unseen: float | None
    classifier: Mapping[str, Any]
    fid: Fid | Absent
    told: bool

    def draw(self, model: nn.Module, *, done: Callable[[int, int], None] = lambda _done, _total: None) -> Drawn:
        """Draw one model's images, on starts that are every model's."""
        return draw(model, self.plan, self.recogniser, shape=self.shape, done=done)

    def sampling(self) -> dict[str, Any]:
        """Return how images are drawn, JSON-safe."""
        profile, classes = self.plan.profile, self.plan.labels
        sides = {"forget": classes[self.plan.forgotten], "retain": classes[self.plan.retained]}
        return {
            "sampler": "ddim",
            "steps": profile.steps,
            "guidance": profile.guidance,
            **{name: {"classes": torch.unique(side).tolist(), "images": len(side)} for name, side in sides.items()},
        }


def studio_for(
    parent: nn.Module,
    splits: EvaluationSplits,
    labels: BySplit,
    *,
    num_classes: int,
    seed: int,
    profile: SamplingProfile,
    extractor: Extractor | Absent = NOT_NAMED,
) -> Studio | None:
    """Train or take the classifier, lay out what is drawn, and take the real images' features; None without pools."""
    pools = splits.recognition
    recogniser = None if pools is None else recogniser_for(pools, num_classes=num_classes)
    if recogniser is None:
        return None
    retained, shape = torch.unique(labels[RETAINED]), splits.forget.images.shape
    sets = _real(splits, retained)
    real, unseen = _distances(recogniser, sets)
    return Studio(
        plan=plan_sampling(retained, classes_gone(labels), seed=seed, profile=profile),
        recogniser=recogniser,
        shape=(shape[1], shape[2], shape[3]),
        real=real,
        real_unseen=unseen,
        classifier=disclosed(recogniser, splits.audit),
        fid=fid_to(sets[0], extractor),
        told=not isinstance(parent, Ddpm) or parent.class_condition,
    )


def drawing_results(studio: Studio | None, ours: Drawn | None, before: Drawn | None) -> list[MetricResult]:
    """Return the figures of one model's images; the parent's, `before`, are compared with."""
    if studio is None or ours is None or before is None:
        return _unmeasured(UNMEASURED, NO_CLASSIFIER)
    distances = [
        figures.frechet(ours, studio.plan, studio.real, unseen=studio.real_unseen),
        figures.fid(ours, studio.plan, studio.fid),
    ]
    if not studio.told:
        return [*_unmeasured(UNMEASURED[:2], NOT_TOLD), *distances]
    return [
        *figures.generation_accuracy(ours, studio.plan, studio.classifier),
        figures.generation_drop(before, ours, studio.plan, studio.classifier),
        *distances,
    ]


def _unmeasured(names: Sequence[str], reason: str) -> list[MetricResult]:
    return [replace(no_figure(name, "not_applicable", reason), split="retain") for name in names]


def _real(splits: EvaluationSplits, retained: Tensor) -> tuple[LabelledSet, LabelledSet | None]:
    """Return the real images that drawn ones are held against, and unseen ones to stand beside them.

    Where the retain set may not be read, unseen images are what there is to compare with, and nothing is beside them.
    """
    unseen = splits.audit.take(torch.isin(splits.audit.labels.cpu(), retained))
    sets = [each for each in (splits.retain, unseen) if len(each) > 1]
    return sets[0] if sets else unseen, sets[1] if len(sets) > 1 else None


def _distances(
    recogniser: Recogniser, sets: tuple[LabelledSet, LabelledSet | None]
) -> tuple[Moments | None, float | None]:
    """Return the moments of the real images, and the distance to them of the unseen ones."""
    real, beside = sets
    found = _moments(recogniser, real)
    if found is None or beside is None:
        return found, None
    unseen = _moments(recogniser, beside)
    return found, None if unseen is None else frechet_distance(unseen, found)


def _moments(recogniser: Recogniser, samples: LabelledSet) -> Moments | None:
    if len(samples) < 2:
        return None
    weights = class_weights(samples.labels.cpu().numpy())
    return moments(recogniser.look(samples.images)[1], weights)
