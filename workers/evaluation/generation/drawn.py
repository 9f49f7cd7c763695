"""One pass of sampling per model, which every metric of drawn images reads: what was asked for, and what came out.

Models are compared on equal starts: the n-th image of every model begins with the same noise, for the same class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from workers.architectures import ImageShape
from workers.architectures.ddpm import Ddpm
from workers.evaluation.generation.recogniser import Recogniser
from workers.evaluation.intervals import Floats
from workers.sampling import sample

BATCH = 250
SHOWN = 8
"""Images of each class that the picture of samples has."""


@dataclass(frozen=True, kw_only=True)
class SamplingProfile:
    """How many images are drawn and how: of classes that are gone together, of retained classes together.

    Every class gets `fewest` at least. `steps` of DDIM; `guidance` as in workers.sampling.
    """

    gone: int = 100
    retained: int = 500
    fewest: int = 10
    steps: int = 20
    guidance: float = 1.0


DEFAULT_SAMPLING = SamplingProfile()


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingPlan:
    """The classes asked for, int64 (N,) on the CPU, those of classes that are gone first; retained ones in turn."""

    labels: Tensor
    gone: int
    profile: SamplingProfile
    seed: int

    @property
    def retained(self) -> slice:
        """Return where the images of retained classes stand."""
        return slice(self.gone, None)

    @property
    def forgotten(self) -> slice:
        """Return where the images of classes that are gone stand."""
        return slice(0, self.gone)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What one model's images are taken for, row by row of the plan: right (N,) bool on the CPU, features (N, d).

    `images` are uint8 (N, C, H, W), on the CPU, `shown` the first of each class, by class.
    """

    right: Tensor
    features: Floats
    images: Tensor
    shown: dict[int, Tensor]


def plan_sampling(
    retained: Tensor, gone: Tensor, *, seed: int, profile: SamplingProfile = DEFAULT_SAMPLING
) -> SamplingPlan:
    """Lay out what to draw of the classes that are retained and of those that are gone, int64 each, ascending."""
    first = _in_turn(gone, profile.gone, profile.fewest)
    return SamplingPlan(
        labels=torch.cat([first, _in_turn(retained, profile.retained, profile.fewest)]),
        gone=len(first),
        profile=profile,
        seed=seed,
    )


def draw(
    model: nn.Module,
    plan: SamplingPlan,
    recogniser: Recogniser,
    *,
    shape: ImageShape,
    done: Callable[[int, int], None],
) -> Drawn:
    """Draw by the plan and look at it; `done` is told how many images there are, and of how many."""
    if not isinstance(model, Ddpm):
        raise TypeError(f"images are drawn from a Ddpm, not from a {type(model).__name__}")
    right, features, made = [], [], []
    for batch, labels in enumerate(torch.split(plan.labels, BATCH)):
        images = sample(
            model,
            labels,
            shape=shape,
            seed=plan.seed + batch,
            guidance=plan.profile.guidance,
            steps=plan.profile.steps,
        )
        found = recogniser.look(images)
        right.append(found[0] == labels)
        features.append(found[1])
        made.append(images.cpu())
        done(min((batch + 1) * BATCH, len(plan.labels)), len(plan.labels))
    whole = torch.cat(made)
    return Drawn(
        right=torch.cat(right),
        features=np.concatenate(features),
        images=whole,
        shown=_first_of_each(whole, plan.labels),
    )


def _in_turn(classes: Tensor, total: int, fewest: int) -> Tensor:
    each = max(fewest, -(-total // len(classes))) if len(classes) else 0
    return classes.cpu().repeat(each)


def _first_of_each(images: Tensor, labels: Tensor) -> dict[int, Tensor]:
    return {label: images[labels == label][:SHOWN] for label in torch.unique(labels).tolist()}
