"""How much of what a model was trained on some samples are: of its training set, and of each class."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


def of_classes(session: Session, model: Concerned, labels: Mapping[int, int]) -> list[ClassShare]:
    """Return the share of each class that the newest version concerned was trained on, the labels in order.

    ``labels``: of each named sample's key at least.
    """
    version, known = model.known[-1]
    named = Counter(labels[key] for key in known)
    sizes = class_sizes(session, version, model.model.dataset_id)
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
    rows: Sequence[SampleRow] | None = None,
) -> dict[str, list[str]]:
    """Return by model why a person must approve the request: which share is above which bound.

    ``above_share``: of the training set, where a model's policy says nothing. No reason names a class: to a key that
    may not read the dataset it would tell of a sample's label. A statement only where a policy bounds classes; one more
    without the ``rows`` of the samples.
    """
    reasons = {model.model.name: _above(session, model, purpose, above_share, rows) for model in found}
    return {name: why for name, why in reasons.items() if why}


def _above(
    session: Session, model: Concerned, purpose: str, above_share: float | None, rows: Sequence[SampleRow] | None
) -> list[str]:
    policy = fan_out.frozen_policy(model.model, purpose).policy
    own, of_class = policy["approval_above_share"], policy["approval_above_class_share"]
    bound, share = above_share if own is None else own, of_training_set(model)
    why = [f"{share:.1%} of its training set, more than {bound:.1%}"] if bound is not None and share > bound else []
    if of_class is not None:
        known = model.known[-1][1]
        labels = labels_of(session, sorted(known)) if rows is None else {row.id: row.label for row in rows}
        shares = of_classes(session, model, labels)
        most = max(each.share for each in shares)
        why += [f"{most:.1%} of a class, more than {of_class:.1%}"] if most > of_class else []
    return why
