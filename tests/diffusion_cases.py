"""What the tests of the diffusion task share: a small noise predictor, patterned images and surroundings."""

from typing import Any

import torch
from torch import Tensor

from service.catalogue.architectures.options import DdpmOptions
from service.catalogue.recipe import Recipe
from workers.architectures.ddpm import Ddpm, ddpm_unet
from workers.diffusion import Diffusion
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.task import Task
from workers.unlearning.interface import Surroundings, UnlearningSplits

SHAPE = (1, 8, 8)
RECIPE = Recipe(optimizer="adam", lr=2e-3, weight_decay=0.0, batch_size=8, schedule="constant")


def net(seed: int = 0, **options: Any) -> Ddpm:
    """Return a noise predictor of one level, for three classes, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        chosen = {"width": 8, "blocks": 1, "width_factors": (1,), "attention_levels": (0,), **options}
        found = ddpm_unet(DdpmOptions.model_validate(chosen), SHAPE, 3)
    assert isinstance(found, Ddpm)
    return found.eval()


def samples(count: int = 24, seed: int = 5) -> LabelledSet:
    """Return images of three classes, each a pattern of its own with a little noise."""
    generator = generator_for(seed)
    patterns = 40 + 160 * torch.randint(0, 2, (3, *SHAPE), generator=generator_for(1))
    labels = torch.arange(count) % 3
    images = patterns[labels] + torch.randint(0, 30, (count, *SHAPE), generator=generator)
    return LabelledSet(images=images.to(torch.uint8), labels=labels)


def splits(forget: Tensor | None = None) -> UnlearningSplits:
    """Return 24 samples, a class of them to forget unless others are named, and a pool of 12."""
    index = torch.arange(0, 24, 3) if forget is None else forget
    return UnlearningSplits(train=samples(), forget_index=index, selection=samples(12, 6))


def around(task: Task | None = None, *, drop: float = 1.0, seed: int = 0) -> Surroundings:
    """Return surroundings for `net`."""
    return Surroundings(
        task=task or Diffusion(measured_draws=2),
        recipe=RECIPE,
        build_model=net,
        generator=generator_for(seed),
        max_accuracy_drop=drop,
    )
