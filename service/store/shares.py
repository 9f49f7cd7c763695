"""How much of what a model was trained on some samples are: of its training set, and of each class."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from service.store import fan_out
from service.store.fan_out import Concerned
from service.store.samples import SampleRow, one_of
from service.store.tables import Sample, Version, VersionExclusion


@dataclass(frozen=True, kw_only=True)
class ClassShare:
    label: int
    samples: int
    of: int

    @property
    def share(self) -> float:
        return self.samples / self.of


def of_training_set(model: Concerned) -> float:
    """Return the share of what the newest version concerned was trained on."""
    version, known = model.known[-1]
    return len(known) / max(version.training_samples, len(known))


@dataclass(kw_only=True)
class Classes:
    """The labels of some samples and the sizes of versions' classes: each is read when first asked for, and once.

    ``keys``: of the samples. For one transaction, in which neither changes.
    """

    keys: Collection[int] = ()
    _labels: Mapping[int, int] | None = None
    _sizes: dict[str, Mapping[int, int]] = field(default_factory=dict)

    @classmethod
    def of_rows(cls, rows: Sequence[SampleRow]) -> "Classes":
        """Return what needs no statement for the labels of these samples."""
        return cls(_labels={row.id: row.label for row in rows})

    def labels(self, session: Session) -> Mapping[int, int]:
        """Return the label of each sample by its key."""
        if self._labels is None:
            self._labels = labels_of(session, sorted(self.keys))
        return self._labels

    def sizes(self, session: Session, version: Version, dataset_id: str) -> Mapping[int, int]:
        """Return how many samples of each label the version was trained on."""
        if version.id not in self._sizes:
            self._sizes[version.id] = class_sizes(session, version, dataset_id)
        return self._sizes[version.id]


def of_classes(session: Session, model: Concerned, classes: Classes) -> list[ClassShare]:
    """Return the share of each class that the newest version concerned was trained on, the labels in order.

    ``classes``: of each named sample at least.
    """
    version, known = model.known[-1]
    labels = classes.labels(session)
    named = Counter(labels[key] for key in known)
    sizes = classes.sizes(session, version, model.model.dataset_id)
    return [ClassShare(label=label, samples=named[label], of=sizes[label]) for label in sorted(sizes)]


def class_sizes(session: Session, version: Version, dataset_id: str) -> dict[int, int]:
    """Return how many samples of each label the version was trained on."""
    excluded = exists().where(VersionExclusion.version_id == version.id, VersionExclusion.sample_id == Sample.id)
    rows = session.execute(
        select(Sample.label, func.count())
        .where(Sample.dataset_id == dataset_id, Sample.pool == "train", ~excluded)
        .group_by(Sample.label)
    )
    return {row[0]: row[1] for row in rows}


def labels_of(session: Session, keys: Sequence[int]) -> dict[int, int]:
    rows = session.execute(select(Sample.id, Sample.label).where(one_of(session, Sample.id, keys)))
    return {row[0]: row[1] for row in rows}


def above_bounds(
    session: Session,
    found: Sequence[Concerned],
    *,
    purpose: str,
    above_share: float | None,
    classes: Classes,
) -> dict[str, list[str]]:
    """Return by model why a person must approve the request: which share is above which bound.

    ``above_share``: of the training set, where a model's policy says nothing. No reason names a class: to a key that
    may not read the dataset it would tell of a sample's label. ``classes``: of each named sample at least; only where
    a policy bounds them are they read.
    """
    reasons = {model.model.name: _above(session, model, purpose, above_share, classes) for model in found}
    return {name: why for name, why in reasons.items() if why}


def _above(session: Session, model: Concerned, purpose: str, above_share: float | None, classes: Classes) -> list[str]:
    policy = fan_out.frozen_policy(model.model, purpose).policy
    own, of_class = policy["approval_above_share"], policy["approval_above_class_share"]
    bound, share = above_share if own is None else own, of_training_set(model)
    why = [f"{share:.1%} of its training set, more than {bound:.1%}"] if bound is not None and share > bound else []
    if of_class is not None:
        most = max(each.share for each in of_classes(session, model, classes))
        why += [f"{most:.1%} of a class, more than {of_class:.1%}"] if most > of_class else []
    return why
