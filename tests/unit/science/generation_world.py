"""A small world of three grey levels with noise: a denoiser trained on it, and one trained without a class."""

from functools import cache

import torch
from torch import nn

from service.catalogue.architectures.options import SmallDdpmOptions
from service.catalogue.recipe import Recipe
from workers.architectures.ddpm import Ddpm, ddpm_unet
from workers.diffusion import Diffusion
from workers.evaluation.generation.drawn import SamplingProfile
from workers.evaluation.generation.profile import GenerationProfile
from workers.evaluation.relearning_curve import RelearningProfile
from workers.evaluation.report import EvaluationSplits
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import train

SHAPE, CLASSES = (1, 8, 8), 3

OPTIONS = SmallDdpmOptions(width=8, width_factors=(1,), attention_levels=())


def short(*, seeds: int) -> GenerationProfile:
    """Return settings by which a report takes seconds."""
    relearned = RelearningProfile(
        seeds=seeds, max_samples=12, max_steps=4, batch_size=12, rates=(0.01,), adam_rates=(0.003,)
    )
    return GenerationProfile(sampling=SamplingProfile(gone=9, retained=48, fewest=6, steps=2), relearning=relearned)


def images_of(count: int, seed: int) -> LabelledSet:
    """Return noisy flat images whose grey level tells the class."""
    labels = torch.arange(count) % CLASSES
    noise = 12 * torch.randn(count, *SHAPE, generator=generator_for(seed))
    grey = 30.0 + 95 * labels[:, None, None, None] + noise
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


def network(seed: int = 0, *, told: bool = True) -> Ddpm:
    """Return a fresh small denoiser, told the class or not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ddpm_unet(OPTIONS.model_copy(update={"class_condition": told}), SHAPE, CLASSES)
    assert isinstance(made, Ddpm)
    return made.eval()


def trained(samples: LabelledSet, epochs: int = 4) -> nn.Module:
    """Return a denoiser trained on the samples."""
    net, rule = network(), Recipe(epochs=epochs, batch_size=16, optimizer="adam", lr=3e-3, weight_decay=0.0)
    train(net, samples, rule, task=Diffusion(), generator=generator_for(0))
    return net


@cache
def world(*, whole_class: bool) -> tuple[nn.Module, nn.Module, EvaluationSplits]:
    """Return parent, a model that never saw the forget set, and the splits."""
    train_set, held_out = images_of(90, 0), images_of(60, 1)
    forgotten = train_set.labels == 2 if whole_class else torch.arange(90) < 12
    forget, retain = train_set.take(forgotten), train_set.take(~forgotten)
    splits = EvaluationSplits(
        retain=retain,
        forget=forget,
        audit=held_out.take(torch.arange(30)),
        test=held_out,
        recognition=images_of(60, 2),
    )
    return trained(train_set), trained(retain), splits
