"""Where memory does not hold a batch, its parts give the same step; how often it was halved is told; it ends."""

import copy
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.methods import METHODS
from service.catalogue.recipe import Recipe
from workers import micro_batches, pipeline
from workers.classification import Classification
from workers.micro_batches import OutOfMemoryError, Split, in_parts, splitting, surviving
from workers.pipeline import ModelSpec
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.training import train
from workers.unlearning.interface import UnlearningSplits

TASK = Classification()


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the garbage collection after each failure, which takes longer than these passes."""
    monkeypatch.setattr(micro_batches, "release_memory", lambda: None)


def _plain() -> nn.Module:
    """Return a convolutional network without norm layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 4))


def _normed() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))


def _samples(count: int = 13) -> LabelledSet:
    drawn = torch.Generator().manual_seed(1)
    return LabelledSet(
        images=torch.randint(0, 256, (count, 1, 8, 8), generator=drawn, dtype=torch.uint8),
        labels=torch.randint(0, 4, (count,), generator=drawn),
    )


def _gradient(model: nn.Module, split: Split, objective: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    model = copy.deepcopy(model).train()
    with splitting(split):
        objective(TASK.logits(model, _samples().images)).backward()  # type: ignore[no-untyped-call]
    return {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def _mean_loss(logits: Tensor) -> Tensor:
    return TASK.loss_of_logits(logits, _samples().labels).mean()


def _not_a_sum_over_samples(logits: Tensor) -> Tensor:
    """Return an objective that no sum over micro-batches of their own objectives equals."""
    return logits.logsumexp(0).max() * logits.square().mean()


@pytest.mark.parametrize("objective", [_mean_loss, _not_a_sum_over_samples])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 12, 13])
def test_the_gradients_of_the_parts_add_up_to_that_of_the_batch(
    size: int, objective: Callable[[Tensor], Tensor]
) -> None:
    whole = _gradient(_plain(), Split(), objective)
    parts = _gradient(_plain(), Split(micro_batch=size), objective)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)


def test_training_in_parts_ends_with_the_weights_of_whole_batches_but_for_rounding() -> None:
    recipe = Recipe(epochs=3, batch_size=8, lr=0.05, schedule="constant")
    weights = []
    for split in (Split(), Split(micro_batch=3)):
        model = _plain()
        with splitting(split):
            train(model, _samples(30), recipe, task=TASK, generator=generator_for(0))
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_dropout_falls_as_it_did_in_the_forward_pass() -> None:
    """The second forward pass of a part must be the first again, or its gradient is of another network."""
    linear = nn.Linear(64, 1, bias=False)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), linear)
    torch.manual_seed(3)
    model.train()
    images = torch.full((6, 1, 8, 8), 255, dtype=torch.uint8)
    with splitting(Split(micro_batch=2)):
        logits = TASK.logits(model, images)
    logits.sum().backward()  # type: ignore[no-untyped-call]
    assert linear.weight.grad is not None
    # The output is linear in the weights: weights times gradient give it back.
    torch.testing.assert_close((linear.weight * linear.weight.grad).sum(), logits.sum(), rtol=1e-4, atol=1e-5)


def test_running_averages_move_once_a_batch_and_not_again_on_the_way_back() -> None:
    def state_after(split: Split, momentum: float | None) -> nn.BatchNorm2d:
        model = _normed().train()
        norm = model[1]  # type: ignore[index]
        norm.momentum = momentum
        with splitting(split):
            _mean_loss(TASK.logits(model, _samples().images)).backward()  # type: ignore[no-untyped-call]
        return norm  # type: ignore[no-any-return]

    whole, parts = state_after(Split(), 0.1), state_after(Split(micro_batch=4), 0.1)
    assert parts.momentum == 0.1
    assert parts.num_batches_tracked is not None
    assert parts.num_batches_tracked.item() == 1
    assert whole.running_mean is not None
    assert parts.running_mean is not None
    # The old value keeps the same weight; the new statistics are those of the parts.
    moved = parts.running_mean.norm() / whole.running_mean.norm()
    assert 0.8 < float(moved) < 1.25
    assert state_after(Split(micro_batch=4), None).num_batches_tracked == 1


def test_batch_norm_is_never_given_a_single_sample() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)).train()
    with splitting(Split(micro_batch=1)):
        _mean_loss(TASK.logits(model, _samples().images)).backward()  # type: ignore[no-untyped-call]


class _Small(Classification):
    """A task on a device that holds so many images of a pass and no more."""

    most_with_gradients, most_without = 4, 5
    passes = 0

    def _logits_at_once(self, model: nn.Module, images: Tensor) -> Tensor:
        type(self).passes += 1
        most = self.most_with_gradients if torch.is_grad_enabled() else self.most_without
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super()._logits_at_once(model, images)


def test_work_that_runs_out_of_memory_is_done_anew_in_halves_until_it_fits() -> None:
    split, begun = Split(), 0

    def work() -> float:
        nonlocal begun
        begun += 1
        model = _plain()
        recipe = Recipe(epochs=1, batch_size=16, lr=0.05, schedule="constant")
        history = train(model, _samples(32), recipe, task=_Small(), generator=generator_for(0))
        return history.epoch_losses[-1]

    found = surviving(work, split)
    assert (begun, split.micro_batch, split.halvings) == (3, 4, 2)
    assert split.account() == {
        "micro_batch_size": 4,
        "halvings": 2,
        "evaluation_batch_size": None,
        "evaluation_halvings": 0,
    }
    whole = train(
        _plain(),
        _samples(32),
        Recipe(epochs=1, batch_size=16, lr=0.05, schedule="constant"),
        task=TASK,
        generator=generator_for(0),
    )
    assert found == pytest.approx(whole.epoch_losses[-1], rel=1e-4)


def test_a_measuring_pass_that_does_not_fit_is_halved_where_it_stands() -> None:
    split, begun = Split(measuring=True), 0
    model = _plain().eval()

    def work() -> Tensor:
        nonlocal begun
        begun += 1
        return _Small().predict(model, _samples(40))

    found = surviving(work, split)
    assert (begun, split.evaluation_batch, split.micro_batch) == (1, 5, None)
    torch.testing.assert_close(found, TASK.predict(model, _samples(40)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measuring", [True, False])
def test_what_not_even_one_sample_fits_into_ends_with_what_to_do(measuring: bool) -> None:
    class Nothing(_Small):
        most_with_gradients = most_without = 0
        passes = 0

    with pytest.raises(OutOfMemoryError, match=r"halving the batch 5 times.*more memory.*retry the job"):
        surviving(lambda: Nothing().predict(_plain().eval(), _samples(40)), Split(measuring=measuring))
    assert Nothing.passes == 6


def test_memory_that_ran_out_before_any_pass_is_not_tried_again() -> None:
    tried = 0

    def work() -> None:
        nonlocal tried
        tried += 1
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(OutOfMemoryError, match="before any batch"):
        surviving(work, Split())
    assert tried == 1


def test_other_errors_pass_as_they_are() -> None:
    def work() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        surviving(work, Split())


def test_a_cpu_without_memory_counts_too() -> None:
    def work() -> Tensor:
        return in_parts(lambda _: torch.empty(1 << 60), _plain(), _samples().images)

    with pytest.raises(OutOfMemoryError):
        surviving(work, Split())


@cache
def _case() -> tuple[ModelSpec, nn.Module, UnlearningSplits]:
    """Return a small net with batch norm, trained for an epoch on images that tell their class, and its splits."""
    pool = _samples(160)
    images = pool.images // 4
    for label in range(4):
        images[pool.labels == label, :, 2 * label : 2 * label + 2] += 160
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": 4},
        image_shape=(1, 8, 8),
        num_classes=4,
        recipe=Recipe(epochs=6, batch_size=32, lr=0.1),
    )
    train_set = LabelledSet(images=images[:128], labels=pool.labels[:128])
    selection = LabelledSet(images=images[128:], labels=pool.labels[128:])
    parent = pipeline.train_original(spec, train_set).model
    return spec, parent, UnlearningSplits(train=train_set, forget_index=torch.arange(24), selection=selection)


SHORTER = {"epochs": 1, "tail_epochs": 0, "max_checks": 2, "more_epochs": 0, "retain_batch_size": 32, "batch_size": 32}


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"sisa"}))
def test_every_method_ends_on_a_device_that_holds_few_samples(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No method knows of the split: whatever it does with a batch goes through the task, or asks for its parts."""
    spec, parent, splits = _case()
    whole = Classification._logits_at_once

    def small(self: Classification, model: nn.Module, images: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(self, model, images)

    monkeypatch.setattr(Classification, "_logits_at_once", small)
    config = METHODS[method].config
    given = config.model_validate({name: value for name, value in SHORTER.items() if name in config.model_fields})
    split = Split()
    unlearn = partial(pipeline.unlearn, spec, parent, splits, given, method=method, seed=0, max_accuracy_drop=2.0)
    found = surviving(unlearn, split)
    assert not found.model.training
    assert split.micro_batch is None or split.micro_batch <= 5
