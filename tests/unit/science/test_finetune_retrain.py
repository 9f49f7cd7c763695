"""Fine-tuning and retraining: what each may read, and what each equals."""

import copy

import pytest
import torch
from torch import Tensor, nn

from service.catalogue.methods import METHODS as CATALOGUE
from service.catalogue.methods import FinetuneConfig, RetrainConfig
from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.reproducibility import derived_seed, generator_for
from workers.samples import LabelledSet
from workers.training import train
from workers.unlearning import METHODS, method_named
from workers.unlearning.finetune import finetune
from workers.unlearning.interface import (
    DivergedError,
    Surroundings,
    UnknownMethodError,
    UnlearningSplits,
)
from workers.unlearning.retrain import retrain

TASK = Classification()
RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05)


def _samples(n: int, seed: int) -> LabelledSet:
    labels = torch.arange(n) % 2
    noise = 40 * torch.randn(n, 1, 2, 2, generator=generator_for(seed))
    images = (100 + 80 * labels[:, None, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return LabelledSet(images=images, labels=labels)


def _splits(forget: Tensor | None = None) -> UnlearningSplits:
    index = torch.arange(8) if forget is None else forget
    return UnlearningSplits(train=_samples(48, 0), forget_index=index, selection=_samples(20, 1))


def _net(seed: int, *, norm: bool = True) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        between = nn.BatchNorm1d(6) if norm else nn.Tanh()
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), between, nn.Linear(6, 2)).eval()


def _around(seed: int = 5) -> Surroundings:
    return Surroundings(
        task=TASK, recipe=RECIPE, build_model=_net, generator=generator_for(seed), max_accuracy_drop=1.0
    )


def _equal(a: nn.Module, b: nn.Module) -> bool:
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def _with_other_forget_images(splits: UnlearningSplits) -> UnlearningSplits:
    images = splits.train.images.clone()
    images[splits.forget_index] = 255 - images[splits.forget_index]
    train_set = LabelledSet(images=images, labels=splits.train.labels)
    return UnlearningSplits(train=train_set, forget_index=splits.forget_index, selection=splits.selection)


def test_retraining_equals_training_on_the_retain_set_from_a_fresh_start() -> None:
    splits, generator = _splits(), generator_for(5)
    result = retrain(_net(0), splits, RetrainConfig(), around=_around(5))
    fresh = _net(derived_seed(generator))
    history = train(fresh, splits.retain, RECIPE, task=TASK, generator=generator)
    assert _equal(result.model, fresh)
    assert tuple(row["objectives"]["loss"] for row in result.history) == history.epoch_losses


def test_retraining_does_not_depend_on_the_parent_or_on_the_forget_set() -> None:
    first = retrain(_net(0), _splits(), RetrainConfig(), around=_around())
    second = retrain(_net(1), _with_other_forget_images(_splits()), RetrainConfig(), around=_around())
    assert _equal(first.model, second.model)


def test_retraining_that_diverges_says_so() -> None:
    def broken(seed: int) -> nn.Module:
        net = _net(seed)
        with torch.no_grad():
            next(net.parameters()).fill_(torch.inf)
        return net

    around = Surroundings(task=TASK, recipe=RECIPE, build_model=broken, generator=generator_for(0))
    with pytest.raises(DivergedError, match="not finite"):
        retrain(_net(0), _splits(), RetrainConfig(), around=around)


def test_finetuning_by_one_epoch_equals_training_on_the_retain_set() -> None:
    splits, parent = _splits(), _net(0)
    config = FinetuneConfig(epochs=1, lr=0.05, batch_size=16)
    result = finetune(parent, splits, config, around=_around(5))
    same = copy.deepcopy(parent)
    train(
        same, splits.retain, RECIPE.model_copy(update={"epochs": 1, "schedule": "constant"}),
        task=TASK, generator=generator_for(5),
    )  # fmt: skip
    assert _equal(result.model, same)


@pytest.mark.parametrize("norm", [True, False])
def test_finetuning_never_reads_the_forget_set(*, norm: bool) -> None:
    config = FinetuneConfig(epochs=2)
    first = finetune(_net(0, norm=norm), _splits(), config, around=_around())
    second = finetune(_net(0, norm=norm), _with_other_forget_images(_splits()), config, around=_around())
    assert _equal(first.model, second.model)


@pytest.mark.parametrize("name", ["finetune", "retrain"])
def test_the_parent_stays_the_seed_repeats_and_another_differs(name: str) -> None:
    parent, config = _net(0), CATALOGUE[name].config()
    before = copy.deepcopy(parent)

    def model(seed: int) -> nn.Module:
        return METHODS[name](parent, _splits(), config, around=_around(seed)).model

    assert _equal(model(1), model(1))
    assert not _equal(model(1), model(2))
    assert _equal(parent, before)


def test_progress_is_told_epoch_by_epoch() -> None:
    told: list[tuple[str, int, int]] = []
    around = Surroundings(
        task=TASK,
        recipe=RECIPE,
        build_model=_net,
        generator=generator_for(0),
        max_accuracy_drop=1.0,
        progress=lambda *row: told.append(row),
    )
    finetune(_net(0), _splits(), FinetuneConfig(epochs=3), around=around)
    assert told == [("unlearn", e, 3) for e in (1, 2, 3)]


def test_a_whole_class_can_be_removed() -> None:
    labels = _splits().train.labels
    splits = _splits((labels == 0).nonzero().squeeze(1))
    for name in ("finetune", "retrain"):
        METHODS[name](_net(0), splits, CATALOGUE[name].config(), around=_around())


def test_the_methods_are_those_of_the_catalogue() -> None:
    assert METHODS.keys() == CATALOGUE.keys()
    assert all(CATALOGUE[name].id == name for name in CATALOGUE)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownMethodError, match=r"'forget_me'.*finetune.*retrain.*scrub.*scrub_r"):
        method_named("forget_me")
