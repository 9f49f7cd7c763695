"""Scenarios of unlearning, each as what is forgotten of a training set with ten classes. Pure; draws by a generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.samples import LabelledSet

ONE_CLASS, TWO_CLASSES, CONFUSED = (3,), (3, 5), (3, 5)
CONFUSED_SHARE = 0.5
SUB_CLASS = 3
"""The original digit that is forgotten where digits are labelled by pairs: it shares its label with 2."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A scenario's data: pools by name (train, selection, audit, test) and which of train to forget, int64 (n,)."""

    pools: Mapping[str, LabelledSet]
    forget_index: Tensor
    num_classes: int = 10


Scenario = Callable[[Mapping[str, LabelledSet], torch.Generator], Cut]


def at_random(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return the positions of a share of all samples."""
    return torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]


def of_classes(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Return the positions of all samples of these classes."""
    return torch.isin(labels, torch.tensor(classes)).nonzero().squeeze(1)


def of_each_class(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return the positions of a share of every class."""
    members = [of_classes(labels, (label,)) for label in torch.unique(labels).tolist()]
    return torch.cat([where[at_random(where, share, generator)] for where in members])


def swapped(
    labels: Tensor, classes: tuple[int, int], share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the labels with a share of either class called the other, and the positions of those."""
    wrong = labels.clone()
    index = torch.cat(
        [where[at_random(where, share, generator)] for where in (of_classes(labels, (c,)) for c in classes)]
    )
    wrong[index] = sum(classes) - labels[index]
    return wrong, index


def in_pairs(samples: LabelledSet) -> LabelledSet:
    """Return the samples labelled by pairs of digits: 0 and 1 are 0, 2 and 3 are 1."""
    return replace(samples, labels=samples.labels // 2)


def random_share(share: float) -> Scenario:
    """Forget a share of all samples."""
    return lambda pools, generator: Cut(pools=pools, forget_index=at_random(pools["train"].labels, share, generator))


def whole_classes(classes: tuple[int, ...]) -> Scenario:
    """Forget all samples of some classes."""
    return lambda pools, _: Cut(pools=pools, forget_index=of_classes(pools["train"].labels, classes))


def share_of_each_class(share: float) -> Scenario:
    """Forget a share of every class."""
    return lambda pools, generator: Cut(
        pools=pools, forget_index=of_each_class(pools["train"].labels, share, generator)
    )


def sub_class(pools: Mapping[str, LabelledSet], _: torch.Generator) -> Cut:
    """Label digits by pairs and forget one digit of one; unseen samples of that label are of the same digit."""
    digits, forget_index = pools["audit"].labels, of_classes(pools["train"].labels, (SUB_CLASS,))
    alike = pools["audit"].take((digits == SUB_CLASS) | (digits // 2 != SUB_CLASS // 2))
    coarse = {name: in_pairs(samples) for name, samples in {**pools, "audit": alike}.items()}
    return Cut(pools=coarse, forget_index=forget_index, num_classes=5)


def mislabelled(pools: Mapping[str, LabelledSet], generator: torch.Generator) -> Cut:
    """Swap the labels of a share of two classes in the training set alone, and forget those samples."""
    labels, index = swapped(pools["train"].labels, CONFUSED, CONFUSED_SHARE, generator)
    return Cut(pools={**pools, "train": replace(pools["train"], labels=labels)}, forget_index=index)


SCENARIOS: Mapping[str, Scenario] = {
    "random 1 %": random_share(0.01),
    "random 10 %": random_share(0.1),
    "random 30 %": random_share(0.3),
    "random 50 %": random_share(0.5),
    "one class": whole_classes(ONE_CLASS),
    "two classes": whole_classes(TWO_CLASSES),
    "30 % of each class": share_of_each_class(0.3),
    "50 % of each class": share_of_each_class(0.5),
    "sub-class": sub_class,
    "mislabelled": mislabelled,
}
