"""Training: the optimiser and schedule a recipe names, batches, reading of images, and what is refused."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from service.catalogue.recipe import Recipe
from workers.classification import Classification, evaluating
from workers.reproducibility import derived_seed, deterministic, environment, generator_for
from workers.samples import LabelledSet, normalise, shuffled_batches
from workers.training import (
    EmptySetError,
    NonFiniteLossError,
    finite_mean,
    make_optimizer,
    rate_factor,
    steps_per_epoch,
    take_step,
    train,
)

TASK = Classification()


def _samples(n: int) -> LabelledSet:
    labels = torch.arange(n) % 2
    images = (100 + 80 * labels[:, None, None, None]).expand(n, 1, 2, 2).to(torch.uint8)
    return LabelledSet(images=images + torch.arange(n, dtype=torch.uint8)[:, None, None, None] % 40, labels=labels)


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


@given(count=st.integers(1, 60), size=st.integers(1, 20))
def test_batches_hold_every_position_once_and_never_end_in_a_single_one(count: int, size: int) -> None:
    parts = list(shuffled_batches(count, size, generator=generator_for(0)))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert all(len(part) <= size + 1 for part in parts)
    assert len(parts) == 1 or size == 1 or len(parts[-1]) > 1


def test_images_are_scaled_by_constants_and_not_by_their_own_statistics() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    assert normalise(images).flatten().tolist() == [-1.0, 1.0]
    assert torch.equal(normalise(images)[:1], normalise(images[:1]))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2)),
    ],
)
def test_samples_of_another_shape_or_dtype_are_refused(images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="must be"):
        LabelledSet(images=images, labels=labels)


def test_taking_copies_in_order_and_accepts_a_mask() -> None:
    samples = _samples(6)
    taken = samples.take(torch.tensor([4, 1]))
    taken.images.zero_()
    assert taken.labels.tolist() == [0, 1]
    assert int(samples.images.min()) > 0
    assert len(samples.take(samples.labels == 1)) == 3


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_the_optimiser_is_the_one_named(name: Any, kind: type) -> None:
    recipe = Recipe(optimizer=name, lr=0.3, momentum=0.8, weight_decay=0.02)
    optimizer = make_optimizer(_net().parameters(), recipe)
    group = optimizer.param_groups[0]
    assert type(optimizer) is kind
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    assert (group["momentum"] if name == "sgd" else group["betas"][0]) == 0.8


@given(total=st.integers(1, 400), schedule=st.sampled_from(["one_cycle", "cosine", "constant"]))
def test_the_rate_stays_within_the_recipes(total: int, schedule: str) -> None:
    factors = [rate_factor(schedule, step, total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    if schedule == "constant" or total == 1:
        assert factors == [1.0] * total
    elif schedule == "cosine":
        assert factors == sorted(factors, reverse=True)


def test_one_cycle_rises_for_three_tenths_and_ends_near_zero() -> None:
    factors = [rate_factor("one_cycle", step, 100) for step in range(100)]
    assert factors[0] == pytest.approx(0.04)
    assert max(range(100), key=factors.__getitem__) == 30
    assert factors[30] == 1
    assert factors[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 69 / 70)))


def test_training_equals_the_same_steps_written_out() -> None:
    recipe = Recipe(epochs=3, batch_size=8, lr=0.05)
    ours, samples = _net(), _samples(20)
    theirs = copy.deepcopy(ours)
    history = train(ours, samples, recipe, task=TASK, generator=generator_for(4))
    generator, step = generator_for(4), 0
    optimizer = SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(3):
        for index in torch.split(torch.randperm(20, generator=generator), 8):
            optimizer.param_groups[0]["lr"] = 0.05 * rate_factor("one_cycle", step, 9)
            optimizer.zero_grad()
            logits = theirs(samples.images[index].float() / 127.5 - 1)
            loss = nn.functional.cross_entropy(logits, samples.labels[index])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    assert len(history.epoch_losses) == 3
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_training_lowers_the_loss_reports_progress_and_ends_in_eval_mode() -> None:
    told = []
    net = _net()
    history = train(
        net,
        _samples(40),
        Recipe(epochs=8, batch_size=8),
        task=TASK,
        generator=generator_for(0),
        progress=lambda phase, done, total: told.append((phase, done, total)),
        phase="retrain",
    )
    assert history.epoch_losses[-1] < history.epoch_losses[0]
    assert told == [("retrain", e, 8) for e in range(1, 9)]
    assert not any(module.training for module in net.modules())


def test_a_seed_repeats_and_another_order_differs() -> None:
    def weights(seed: int) -> list[Tensor]:
        net = _net()
        with deterministic():
            train(net, _samples(40), Recipe(epochs=2, batch_size=8), task=TASK, generator=generator_for(seed))
        return list(net.state_dict().values())

    assert all(map(torch.equal, weights(1), weights(1)))
    assert not all(map(torch.equal, weights(1), weights(2)))


def test_nothing_to_train_on_is_refused() -> None:
    empty = _samples(2).take(torch.tensor([], dtype=torch.int64))
    with pytest.raises(EmptySetError):
        train(_net(), empty, Recipe(), task=TASK, generator=generator_for(0))


def test_a_loss_that_is_not_finite_ends_training_and_names_the_epoch() -> None:
    net = _net()
    with torch.no_grad():
        next(net.parameters()).fill_(torch.inf)
    with pytest.raises(NonFiniteLossError, match="epoch 1"):
        train(net, _samples(20), Recipe(epochs=2), task=TASK, generator=generator_for(0))
    with pytest.raises(NonFiniteLossError, match="here"):
        finite_mean([torch.tensor(torch.nan)], 1, "here")


def test_a_bounded_step_is_as_long_as_the_bound_and_keeps_its_direction() -> None:
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    take_step(SGD([w], 1.0), w @ torch.tensor([30.0, 40.0]), grad_norm=1.0)
    torch.testing.assert_close(w.detach(), torch.tensor([2.4, 3.2]))


def test_evaluating_restores_every_modules_own_mode() -> None:
    net = _net().train()
    norm = next(module for module in net.modules() if isinstance(module, nn.BatchNorm1d)).eval()
    with evaluating(net):
        assert not any(module.training for module in net.modules())
        assert not torch.is_grad_enabled()
    assert net.training
    assert not norm.training


def test_predictions_do_not_depend_on_the_batch_and_leave_buffers_alone() -> None:
    net, samples = _net().train(), _samples(20)
    before = copy.deepcopy(net.state_dict())
    torch.testing.assert_close(TASK.predict(net, samples, 20), TASK.predict(net, samples, 3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_deterministic_kernels_are_asked_for_and_the_flags_restored() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic():
        assert environment()["deterministic"] is True
    assert torch.are_deterministic_algorithms_enabled() is before


def test_seeds_drawn_follow_the_generator() -> None:
    generator = generator_for(7)
    drawn = [derived_seed(generator), derived_seed(generator)]
    assert drawn[0] != drawn[1]
    assert drawn[0] == derived_seed(generator_for(7))


@pytest.mark.parametrize("batch_size", range(1, 7))
@pytest.mark.parametrize("count", range(1, 14))
def test_the_steps_counted_are_the_batches_there_are(count: int, batch_size: int) -> None:
    batches = list(shuffled_batches(count, batch_size, generator=generator_for(0)))
    assert steps_per_epoch(count, batch_size) == len(batches)
