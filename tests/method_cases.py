"""What the tests of unlearning methods share: small sets, small nets in float64, and digits with a trained net."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from service.catalogue.recipe import Recipe
from workers.classification import Classification
from workers.data import read
from workers.data.pools import cut
from workers.pipeline import ModelSpec, train_original
from workers.reproducibility import generator_for
from workers.samples import LabelledSet, normalise
from workers.task import Task
from workers.unlearning.interface import Surroundings, UnlearningSplits

FORGET = 12


class DoubleTask(Classification):
    """Classify in float64."""

    def inputs(self, images: Tensor) -> Tensor:
        return normalise(images).double()


def samples(n: int, seed: int, *, shape: Sequence[int] = (1, 3, 3), classes: int = 3) -> LabelledSet:
    """Return noisy grey images, the lighter the higher the class."""
    labels = torch.arange(n) % classes
    noise = 50 * torch.randn(n, *shape, generator=generator_for(seed))
    grey = 64.0 + 64 * labels[:, None, None, None] + noise
    return LabelledSet(images=grey.clamp(0, 255).to(torch.uint8), labels=labels)


def splits(**shape: Any) -> UnlearningSplits:
    """Return 60 samples, the first FORGET of them to forget, and a pool of 30."""
    return UnlearningSplits(
        train=samples(60, 0, **shape), forget_index=torch.arange(FORGET), selection=samples(30, 1, **shape)
    )


def with_other_images(given: UnlearningSplits, index: Tensor) -> UnlearningSplits:
    """Return the same splits with the images at `index` of the training set turned to their negative."""
    images = given.train.images.clone()
    images[index] = 255 - images[index]
    changed = LabelledSet(images=images, labels=given.train.labels)
    return UnlearningSplits(train=changed, forget_index=given.forget_index, selection=given.selection)


def without_retain_data(given: UnlearningSplits, *, pool: bool = True) -> UnlearningSplits:
    """Return the same forget set, the retain set gone, with the pool or an empty one."""
    selection = given.selection if pool else given.selection.take(torch.zeros(0, dtype=torch.int64))
    return UnlearningSplits.forget_only(given.forget, selection, retained_labels=given.retained_labels)


def net(
    *, norm: bool = False, drop: bool = False, act: type[nn.Module] = nn.Tanh, seed: int = 3, classes: int = 3
) -> nn.Sequential:
    """Return a three-layer net in float64, in eval mode; `norm` adds batch norm, `drop` dropout after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extra: list[nn.Module] = [nn.BatchNorm1d(8)] * norm + [nn.Dropout(0.5)] * drop
        layers = [nn.Flatten(), nn.Linear(9, 8), *extra, act(), nn.Linear(8, 6), act(), nn.Linear(6, classes)]
        return nn.Sequential(*layers).double().eval()


def conv_net(*, norm: bool = False, seed: int = 3) -> nn.Sequential:
    """Return a convolution and a linear layer in float64, in eval mode; `norm` adds batch norm between."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extra: list[nn.Module] = [nn.BatchNorm2d(4)] * norm
        layers = [nn.Conv2d(1, 4, 3, padding=1), *extra, nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)]
        return nn.Sequential(*layers).double().eval()


def around(seed: int = 0, *, drop: float = 1.0, task: Task | None = None, **recipe: Any) -> Surroundings:
    """Return surroundings for `net`, in float64 unless another task is given."""
    return Surroundings(
        task=task or DoubleTask(),
        recipe=Recipe(**recipe),
        build_model=lambda fresh: net(seed=fresh),
        generator=generator_for(seed),
        max_accuracy_drop=drop,
    )


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Say whether all weights and buffers are equal bit for bit."""
    return all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """A net trained on scikit-learn's digits, and the pools; the model is shared and not to be changed."""

    spec: ModelSpec
    parent: nn.Module
    pools: dict[str, LabelledSet]

    def forgetting(self, forget: Tensor) -> UnlearningSplits:
        return UnlearningSplits(train=self.pools["train"], forget_index=forget, selection=self.pools["selection"])

    def at_random(self, n: int) -> UnlearningSplits:
        return self.forgetting(torch.randperm(len(self.pools["train"]), generator=generator_for(0))[:n])

    def of_class(self, label: int) -> UnlearningSplits:
        return self.forgetting((self.pools["train"].labels == label).nonzero().squeeze(1))

    def around(self, *, drop: float = 0.02) -> Surroundings:
        return Surroundings(
            task=Classification(),
            recipe=self.spec.recipe,
            build_model=lambda _seed: self.parent,
            generator=generator_for(0),
            max_accuracy_drop=drop,
        )


@cache
def digits() -> Digits:
    """Train a small_cnn on digits once per process, within seconds."""
    arrays = read({"source": "sklearn:digits"})
    names = cut(arrays, bytes(4))[1]
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)

    def pool(wanted: str) -> LabelledSet:
        index = torch.tensor([i for i, name in enumerate(names) if name == wanted])
        return LabelledSet(images=images[index], labels=labels[index])

    pools = {name: pool(name) for name in ("train", "selection", "audit")}
    spec = ModelSpec(
        architecture="small_cnn",
        options={"width": 12},
        image_shape=(1, 8, 8),
        num_classes=10,
        recipe=Recipe(epochs=12, seed=0),
    )
    return Digits(spec=spec, parent=train_original(spec, pools["train"]).model, pools=pools)
