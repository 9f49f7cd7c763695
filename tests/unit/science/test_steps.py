"""How a method's steps are filled in from the recipe and the sizes of its sets."""

import math
from itertools import islice

import pytest
import torch

from service.catalogue.methods import NegGradPlusConfig, ScrubConfig
from service.catalogue.recipe import Recipe
from workers.reproducibility import generator_for
from workers.unlearning.steps import Steps, cycled_batches, rates_of_epoch, steps_for


def _steps(config: ScrubConfig, *, retain: int = 1200, forget: int = 90) -> Steps:
    recipe = Recipe(optimizer="adam", lr=0.02, momentum=0.7, batch_size=128)
    return steps_for(config, recipe, rate_share=0.25, retain_count=retain, forget_count=forget)


def test_options_left_null_follow_the_recipe_and_those_named_win() -> None:
    filled = _steps(ScrubConfig())
    assert (filled.optimizer, filled.lr, filled.momentum) == ("adam", 0.02 * 0.25, 0.7)
    assert _steps(ScrubConfig(lr_share=0.5)).lr == 0.02 * 0.5
    assert _steps(ScrubConfig(lr_share=0.5, lr=0.1)).lr == 0.1
    given = {"optimizer": "sgd", "lr": 0.5, "momentum": 0.0, "retain_batch_size": 7, "forget_batch_size": 5}
    named = _steps(ScrubConfig.model_validate(given))
    assert {name: getattr(named, name) for name in given} == given


def test_small_sets_get_smaller_batches() -> None:
    assert _steps(ScrubConfig(), retain=60_000).retain_batch_size == 128
    assert _steps(ScrubConfig(), retain=40 * 32).retain_batch_size == 32
    assert _steps(ScrubConfig(), retain=10).retain_batch_size == 16
    sizes = [_steps(ScrubConfig(), forget=forget).forget_batch_size for forget in (1, 30, 300, 3000)]
    assert sizes == sorted(sizes)


def test_cycled_batches_pass_over_all_again_and_again_in_new_orders() -> None:
    drawn = list(islice(cycled_batches(10, 5, generator=generator_for(0)), 6))
    passes = [torch.cat(drawn[i : i + 2]).tolist() for i in (0, 2, 4)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1]


def test_the_rate_is_constant_and_then_falls_once_over_all_epochs_of_the_tail() -> None:
    config = NegGradPlusConfig(epochs=2, tail_epochs=2, tail_lr_factor=0.5)
    rates = [rate for e in (1, 2, 3, 4) for rate in rates_of_epoch(e, 3, config, 0.2)]
    falling = [0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert rates == pytest.approx([0.2] * 6 + falling, rel=1e-12)
