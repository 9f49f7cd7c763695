"""What all generation models of one report are measured on alike, and what is measured of one of them.

Draws, controls, starting noise, targets and rates are fixed once, from the parent; every model then stands on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workers.classification import device_of
from workers.diffusion import Diffusion
from workers.evaluation.generation import losses, relearning
from workers.evaluation.generation.drawing import Studio, drawing_results, studio_for
from workers.evaluation.generation.drawn import Drawn
from workers.evaluation.generation.inception import NOT_NAMED, Absent, Extractor
from workers.evaluation.generation.profile import DEFAULT_PROFILE, GenerationProfile
from workers.evaluation.measure import RETAINED, BySplit, Draws, classes_gone, draw_pairs, timed
from workers.evaluation.relearning_curve import RUN_ON
from workers.evaluation.report import SPLITS, EvaluationSplits
from workers.evaluation.report_parts import Clock
from workers.evaluation.result import MetricResult
from workers.evaluation.utility import relative_distance
from workers.reproducibility import derived_seed, generator_for
from workers.training import Progress, no_progress

MOST_RETAINED = 5000
"""So many retained samples at most are read; of more, as many evenly spread over them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """The sets on the parent's device, and all that is drawn once.

    `plans` is None where there is nothing to relearn; `whole` names the classes that are gone where the set to relearn
    has no other.
    """

    splits: EvaluationSplits
    labels: BySplit
    draws: Draws
    task: Diffusion
    studio: Studio | None
    plans: relearning.Plans | None
    whole: list[int]
    generator: torch.Generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One model's losses by split, its images and its relearning runs."""

    losses: losses.Losses
    drawn: Drawn | None
    runs: relearning.Runs | None


def stage_for(
    parent: nn.Module,
    splits: EvaluationSplits,
    *,
    num_classes: int,
    seed: int,
    groups: Mapping[str, Tensor],
    profile: GenerationProfile = DEFAULT_PROFILE,
    extractor: Extractor | Absent = NOT_NAMED,
    progress: Progress = no_progress,
    clock: Clock | None = None,
) -> Stage:
    """Fix what every model is measured on. Equal seeds give equal stages."""
    clock = clock or Clock()
    splits = _within_reach(splits).to(device_of(parent))
    labels, generator = splits.labels(), generator_for(seed)
    draws = draw_pairs(labels, groups, generator=generator)
    gone, task, drawn_by = classes_gone(labels), Diffusion(seed=derived_seed(generator)), derived_seed(generator)
    progress("classifier", 0, 1)
    with clock.timed("classifier"):
        studio = studio_for(
            parent,
            splits,
            labels,
            num_classes=num_classes,
            seed=drawn_by,
            profile=profile.sampling,
            extractor=extractor,
        )
    progress("calibrate", 0, 1)
    with clock.timed("relearning_plan"):
        plans = relearning.plans_for_pairs(
            parent,
            splits.forget,
            splits.audit,
            draws.pairs,
            generator=generator,
            gone=gone,
            profile=profile.relearning,
        )
    return Stage(
        splits=splits,
        labels=labels,
        draws=draws,
        task=task,
        studio=studio,
        plans=plans,
        whole=relearning.only_gone(plans, gone),
        generator=generator,
    )


def _within_reach(splits: EvaluationSplits) -> EvaluationSplits:
    """Return the splits with no more retained samples than are read; which labels there are stays known."""
    count = len(splits.retain)
    if count <= MOST_RETAINED:
        return splits
    known = splits.retain.labels if splits.retained_labels is None else splits.retained_labels
    some = splits.retain.take(torch.linspace(0, count - 1, MOST_RETAINED).long())
    return replace(splits, retain=some, retained_labels=torch.unique(known))


def measure(
    model: nn.Module,
    stage: Stage,
    *,
    who: str,
    run_on: float = RUN_ON,
    progress: Progress = no_progress,
    clock: Clock | None = None,
) -> Measured:
    """Read the losses, draw the images and relearn, once; the model is not changed."""
    clock = clock or Clock()
    progress("predict", 0, 1)
    with clock.timed(f"predict_{who}"):
        read = {name: losses.measured(stage.task, model, getattr(stage.splits, name)) for name in SPLITS}
    with clock.timed(f"draw_{who}"):
        drawn = None if stage.studio is None else stage.studio.draw(model, done=lambda n, of: progress("draw", n, of))
    progress("relearn", 0, 1)
    with clock.timed(f"relearning_{who}"):
        runs = (
            None
            if stage.plans is None
            else relearning.run_relearning(model, stage.plans, with_unseen=not stage.whole, run_on=run_on)
        )
    return Measured(losses=read, drawn=drawn, runs=runs)


def results_of(
    ours: Measured, stage: Stage, *, before: Measured, model: nn.Module, parent: nn.Module
) -> list[MetricResult]:
    """Return one model's results; the parent, measured as `before`, is compared with."""
    kept = torch.isin(stage.labels["test"], stage.labels[RETAINED])
    return [
        *timed(losses.measure_losses, ours.losses, before.losses, kept, stage.draws),
        *timed(drawing_results, stage.studio, ours.drawn, before.drawn),
        average_distance(parent, model),
        *relearning.relearning_results(ours.runs, stage.plans, classes_gone=stage.whole),
    ]


def average_distance(parent: nn.Module, unlearned: nn.Module) -> MetricResult:
    """Return ||w_u - w_o|| / ||w_o|| of the averages, by which images are drawn; they are kept in buffers."""
    before, after = ([*network.get_submodule("ema").buffers()] for network in (parent, unlearned))
    count = sum(w.numel() for w in before)
    return MetricResult(name="weight_distance", value=relative_distance(before, after), n=count)


def compared(ours: Measured, retrained: Measured, stage: Stage) -> list[MetricResult]:
    """Return what a retrained model is the yardstick of."""
    if stage.plans is None or ours.runs is None or retrained.runs is None:
        return []
    return relearning.anamnesis(ours.runs, stage.plans, retrained=retrained.runs)
