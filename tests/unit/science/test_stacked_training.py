"""Copies trained in one vectorised step equal the copies trained one after the other on the same batches."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from service.catalogue.recipe import Recipe
from workers.architectures import build
from workers.architectures.vit import ResizingVit
from workers.classification import Classification
from workers.reproducibility import generator_for
from workers.samples import LabelledSet
from workers.stacked_training import Copy, train_copies
from workers.stacking import plan_stacking, stacked_size, why_not_stacked
from workers.training import EmptySetError, NonFiniteLossError, train

TASK = Classification()
Build = Callable[[int], nn.Module]


def _samples(count: int = 60) -> LabelledSet:
    labels = torch.arange(count) % 3
    images = torch.randint(120, (count, 1, 8, 8), generator=generator_for(9), dtype=torch.uint8)
    return LabelledSet(images=images + 60 * labels.to(torch.uint8)[:, None, None, None], labels=labels)


def _seeded(make: Callable[[], nn.Module]) -> Build:
    def built(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return built


def _with_norm(seed: int) -> nn.Module:
    return build("small_cnn", {"width": 4}, image_shape=(1, 8, 8), num_classes=3, seed=seed)


def _transformer(seed: int) -> nn.Module:
    options = {"width": 8, "depth": 2, "heads": 2}
    return build("small_vit", options, image_shape=(1, 8, 8), num_classes=3, seed=seed)


_without_norm = _seeded(
    lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.0), nn.Flatten(), nn.Linear(36, 3)
    )
)


class _Tied(nn.Module):
    """One weight used twice, and a buffer that no checkpoint holds."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 64)
        self.again = self.inner
        self.head = nn.Linear(64, 3)
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(torch.relu(self.inner(x.flatten(1)))) * self.scale)  # type: ignore[no-any-return]


class _Replacing(nn.Module):
    """Puts a new tensor in its buffer's place, which a functional call cannot see."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class _Branching(nn.Module):
    """Decides by a value, which no vectorised run can."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x.flatten(1))
        return found if float(found.detach().sum()) > 0 else found * 2


def _copies(models: list[nn.Module], rows: list[Tensor]) -> list[Copy]:
    pairs = enumerate(zip(models, rows, strict=True))
    return [Copy(model=model, rows=part, generator=generator_for(100 + i)) for i, (model, part) in pairs]


def _trained(make: Build, rows: list[Tensor], recipe: Recipe, at_once: int) -> tuple[list[nn.Module], list[Any]]:
    copies = _copies([make(seed) for seed in range(len(rows))], rows)
    histories = train_copies(copies, _samples(), recipe, task=TASK, at_once=at_once)
    return [each.model for each in copies], [history.epoch_losses for history in histories]


def _assert_same(ours: list[nn.Module], theirs: list[nn.Module]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        for name, tensor in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def _halves(*counts: int) -> list[Tensor]:
    return [torch.randperm(60, generator=generator_for(seed))[:count] for seed, count in enumerate(counts)]


@pytest.mark.parametrize("make", [_without_norm, _with_norm, _transformer, _seeded(_Tied)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stacked_copies_equal_copies_trained_alone(make: Build, optimizer: Any) -> None:
    recipe = Recipe(epochs=2, batch_size=8, lr=0.02, optimizer=optimizer)
    rows = _halves(30, 30, 30)
    stacked, losses = _trained(make, rows, recipe, 3)
    for seed, half in enumerate(rows):
        alone = make(seed)
        history = train(alone, _samples().take(half), recipe, task=TASK, generator=generator_for(100 + seed))
        _assert_same([stacked[seed]], [alone])
        assert losses[seed] == pytest.approx(history.epoch_losses, rel=1e-3)
        assert not any(module.training for module in stacked[seed].modules())


def test_running_statistics_are_each_copys_own() -> None:
    models, _ = _trained(_with_norm, _halves(30, 30), Recipe(epochs=1, batch_size=8, lr=0.02), 2)
    first, second = (dict(model.named_buffers()) for model in models)
    assert first["features.1.num_batches_tracked"] == 4
    assert not torch.equal(first["features.1.running_mean"], second["features.1.running_mean"])


def test_halves_of_unequal_size_and_small_stacks_make_no_difference() -> None:
    """33 samples in batches of 16 take 2 steps, the odd one joined; 34 take 3."""
    recipe = Recipe(epochs=2, batch_size=16, lr=0.02)
    rows = _halves(33, 34, 33, 34, 33)
    (plain, plain_losses), (stacked, stacked_losses) = (_trained(_with_norm, rows, recipe, n) for n in (1, 2))
    _assert_same(stacked, plain)
    for ours, theirs in zip(stacked_losses, plain_losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_progress_counts_the_epochs_of_all_copies(at_once: int) -> None:
    told: list[tuple[str, int, int]] = []
    train_copies(
        _copies([_without_norm(seed) for seed in range(4)], _halves(20, 20, 20, 20)),
        _samples(),
        Recipe(epochs=2, batch_size=16),
        task=TASK,
        at_once=at_once,
        progress=lambda *step: told.append(step),
        phase="references",
    )
    assert told == [("references", done, 8) for done in range(at_once, 9, at_once)]


def test_one_copy_that_diverges_ends_the_run() -> None:
    models = [_without_norm(seed) for seed in range(2)]
    with torch.no_grad():
        next(models[1].parameters()).fill_(torch.inf)
    with pytest.raises(NonFiniteLossError, match="epoch 1"):
        train_copies(_copies(models, _halves(20, 20)), _samples(), Recipe(epochs=1), task=TASK, at_once=2)


def test_a_copy_without_samples_is_refused() -> None:
    with pytest.raises(EmptySetError):
        _trained(_without_norm, _halves(20, 0), Recipe(epochs=1), 2)


@pytest.mark.parametrize("make", [_without_norm, _with_norm, _transformer, _seeded(_Tied)])
def test_networks_that_can_be_stacked_pass_the_trial_and_are_left_alone(make: Build) -> None:
    model = make(0).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert why_not_stacked(model, _samples(), task=TASK) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_torchvisions_transformer_can_be_stacked_in_our_form_alone(*, training: bool) -> None:
    """Its own form chooses fused kernels for attention, which cannot be vectorised."""
    size: dict[str, int] = {
        "image_size": 8,
        "patch_size": 4,
        "num_layers": 1,
        "num_heads": 2,
        "hidden_dim": 8,
        "mlp_dim": 8,
        "num_classes": 3,
    }
    faults = []
    for kind in (ResizingVit, VisionTransformer):
        net = _seeded(partial(kind, **size))(0)
        net.conv_proj, net.resize = nn.Conv2d(1, 8, 4, stride=4), nn.Identity()
        nn.init.normal_(net.heads.head.weight)  # type: ignore[union-attr,arg-type]
        faults.append(why_not_stacked(net, _samples(), task=TASK, training=training))
    assert faults == [None, "the network cannot be vectorised (UserWarning)"]


def test_dropout_does_not_fail_the_trial_and_draws_anew_for_each_copy() -> None:
    make = _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)))
    assert why_not_stacked(make(0), _samples(), task=TASK) is None
    models = [make(0), make(0)]
    copies = [Copy(model=model, rows=torch.arange(30), generator=generator_for(0)) for model in models]
    with torch.random.fork_rng(devices=[]):
        train_copies(copies, _samples(), Recipe(epochs=1), task=TASK, at_once=2)
    assert not torch.equal(next(models[0].parameters()), next(models[1].parameters()))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_Branching, "cannot be vectorised"),
        (_Replacing, "differs from its copies"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 3)), "vectorised"),
    ],
)
def test_networks_that_cannot_be_stacked_are_trained_one_after_the_other(
    make: Callable[[], nn.Module], reason: str
) -> None:
    plan = plan_stacking(
        _seeded(make)(0), _samples(), copies=4, batch_size=8, budget_bytes=10**9, task=TASK, way="stacked"
    )
    assert (plan.way, plan.at_once) == ("plain", 1)
    assert reason in plan.reason


@pytest.mark.parametrize(
    ("way", "budget", "expected"),
    [
        ("stacked", 10**9, ("stacked", 4)),
        ("stacked", 1000, ("plain", 1)),
        ("plain", 10**9, ("plain", 1)),
        (None, 10**9, ("plain", 1)),
    ],
)
def test_the_plan_follows_the_wish_the_budget_and_the_device(way: Any, budget: int, expected: Any) -> None:
    plan = plan_stacking(_with_norm(0), _samples(), copies=4, batch_size=8, budget_bytes=budget, task=TASK, way=way)
    assert (plan.way, plan.at_once) == expected


def test_the_number_of_copies_is_counted_by_hand_for_one_linear_layer() -> None:
    """Weights 64·3 + 3, kept per sample: 64 inputs, 3 log-probabilities, all float32, and the int64 label."""
    net = _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))(0)
    kept = 4 * (64 + 3) + 8
    one = 5 * 4 * (64 * 3 + 3) + 3 * 8 * kept
    size = stacked_size(net, _samples(), batch_size=8, budget_bytes=1000 * one, task=TASK)
    # the loss keeps one number per batch too
    assert 990 <= size <= 1000
    assert stacked_size(net, _samples(), batch_size=8, budget_bytes=one // 2, task=TASK) == 0
