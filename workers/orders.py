"""Turns a claimed job into an order for the child: positions and paths, never a sample ID or a session."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.artifacts import ArtifactStore
from service.evidence.commitments import derive
from service.lifecycle import JobKind, SampleState, VersionState
from service.settings import Settings
from service.store import requests, samples, versions
from service.store.tables import Dataset, Job, Model, Sample, Version, VersionExclusion


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a worker finds and leaves files."""

    settings: Settings
    artifacts: ArtifactStore
    out: Path

    def weights(self, version: Version) -> str:
        """Return a local path of the version's weights, fetching them if the store is elsewhere."""
        local = self.artifacts.local_path(version.sha256)
        if local is None:
            local = self.out / "parent.safetensors"
            self.artifacts.fetch(version.sha256, local)
        return str(local)

    @property
    def roots(self) -> list[str]:
        return [str(root) for root in self.settings.roots]

    def cache(self, dataset: Dataset) -> str:
        return str((self.settings.data_dir / "cache" / dataset.id).resolve())


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An order and what its publication will need to know; no order means there is nothing left to do."""

    order: dict[str, Any] | None
    parent_id: str | None = None
    forget_keys: list[int] = field(default_factory=list)
    excluded_keys: list[int] = field(default_factory=list)


def prepare(session: Session, job: Job, place: Place) -> Prepared:
    """Read everything the child needs."""
    dataset = session.get_one(Dataset, job.dataset_id)
    match JobKind(job.kind):
        case JobKind.INDEX:
            return Prepared(order=_index(dataset, place))
        case JobKind.TRAIN:
            return _train(session, job, dataset, place)
        case JobKind.VALIDATE:
            return Prepared(order=_validate(session, job, dataset, place))
        case JobKind.ERASE:
            return _erase(session, job, dataset, place)


def _index(dataset: Dataset, place: Place) -> dict[str, Any]:
    key = derive(place.settings.master_key_bytes, f"pools {dataset.name}")
    return {
        "kind": "index",
        "source": dataset.source,
        "roots": place.roots,
        "pool_key": key.hex(),
        "cache": place.cache(dataset),
        "out": str(place.out),
    }


def _base(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    model = session.get_one(Model, job.model_id)
    return {
        "kind": job.kind,
        "device": place.settings.device,
        "out": str(place.out),
        "spec": {
            "architecture": model.architecture,
            "options": model.architecture_options,
            "image_shape": dataset.image_shape,
            "num_classes": dataset.num_classes,
            "recipe": model.recipe,
        },
        "dataset": {
            "source": dataset.source,
            "roots": place.roots,
            "digest": dataset.digest,
            "cache": place.cache(dataset),
            "erased": samples.erased_positions(session, dataset.id),
        },
    }


def _train(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    # What the model's earlier versions had to forget stays forgotten, also where the id itself lives on.
    forgotten = (
        select(VersionExclusion.sample_id)
        .join(Version, Version.id == VersionExclusion.version_id)
        .where(Version.model_id == job.model_id)
    )
    pool = (Sample.dataset_id == dataset.id, Sample.pool == "train")
    kept = (Sample.state == SampleState.LIVE) & Sample.id.not_in(forgotten)
    train = session.scalars(select(Sample.position).where(*pool, kept).order_by(Sample.position))
    excluded = session.scalars(select(Sample.id).where(*pool, ~kept))
    order = {**_base(session, job, dataset, place), "train": list(train)}
    return Prepared(order=order, excluded_keys=list(excluded))


def _validate(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    version = session.get_one(Version, job.version_id)
    base = _base(session, job, dataset, place)
    return {**base, "weights": place.weights(version), "sha256": version.sha256}


def _erase(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    named = requests.sample_keys(session, [request.id for request in requests.of_job(session, job.id)])
    keys = sorted({key for group in named.values() for key in group})
    found = _parent(session, job, keys)
    if found is None:
        return Prepared(order=None)
    parent, known = found
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == parent.id)
    rows = session.execute(
        select(Sample.id, Sample.position, Sample.state).where(
            Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.id.not_in(excluded)
        )
    ).all()
    forget_keys = [key for key, _ in known]
    forget = {position for _, position in known}
    train = sorted(forget | {row.position for row in rows if row.state == SampleState.LIVE})
    # Samples of other open requests are not trained on any more, but only retraining makes the model forget them.
    withheld = [row.id for row in rows if row.state != SampleState.LIVE and row.position not in forget]
    order = _base(session, job, dataset, place)
    order |= _erase_inputs(session, job, dataset, dict(known), named)
    index = {position: i for i, position in enumerate(train)}
    order |= {
        "train": train,
        "forget_index": [index[position] for _, position in known],
        "weights": place.weights(parent),
        "sha256": parent.sha256,
        "training_seconds": parent.training_seconds,
    }
    return Prepared(
        order=order,
        parent_id=parent.id,
        forget_keys=forget_keys,
        excluded_keys=forget_keys + (withheld if job.method == "retrain" else []),
    )


def _parent(session: Session, job: Job, keys: list[int]) -> tuple[Version, list[tuple[int, int]]] | None:
    """Return the newest version in circulation that knows any of the samples, and which it knows."""
    for version in reversed(versions.live(session, str(job.model_id))):
        known = versions.trained_on(session, version, keys)
        if known and version.state != VersionState.VALIDATING:
            return version, known
    return None


def _erase_inputs(
    session: Session, job: Job, dataset: Dataset, known: dict[int, int], named: dict[str, list[int]]
) -> dict[str, Any]:
    model = session.get_one(Model, job.model_id)
    pools = samples.positions(session, dataset.id)
    place_of = {key: i for i, key in enumerate(known)}
    options = dict(job.method_options or {})
    seed = options.get("seed")
    return {
        "method": job.method,
        "config": options,
        "seed": job.seed if seed is None else seed,
        # The policy speaks of percentage points, the methods of shares.
        "max_accuracy_drop": float(model.policy["max_accuracy_drop"]) / 100,
        "selection": pools.get("selection", []),
        "audit": pools.get("audit", []),
        "test": sorted(pools.get("audit", []) + pools.get("population", [])),
        "groups": {name: sorted(place_of[key] for key in group if key in place_of) for name, group in named.items()},
    }
