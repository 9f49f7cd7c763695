"""Turns a claimed job into an order for the child: positions and paths, never a sample ID or a session."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.evidence.commitments import derive
from service.lifecycle import JobKind
from service.store import models, preparations, readable, references, retention, samples, versions
from service.store.tables import Dataset, Job, Model, Sample, Version, VersionExclusion
from service.store.types import now
from workers import erasure_orders
from workers.order_parts import Place, Prepared, on_model


def prepare(session: Session, job: Job, place: Place) -> Prepared:
    """Read everything the child needs. Raises NoMethodLeft."""
    dataset = session.get_one(Dataset, job.dataset_id)
    match JobKind(job.kind):
        case JobKind.INDEX:
            return Prepared(order=_index(dataset, place))
        case JobKind.REINDEX:
            return Prepared(order={**_index(dataset, place), "cache": None})
        case JobKind.TRAIN | JobKind.PREPARE if models.retain_data_gone(session, session.get_one(Model, job.model_id)):
            # asked for while the data could still be read
            return Prepared(order=None)
        case JobKind.TRAIN:
            return _train(session, job, dataset, place)
        case JobKind.VALIDATE:
            return Prepared(order=_validate(session, job, dataset, place))
        case JobKind.ERASE:
            return erasure_orders.prepare(session, job, dataset, place)
        case JobKind.PREPARE:
            return Prepared(order=_prepare(session, job, dataset, place))
        case JobKind.TRIM:
            return _trim(session, job, place)
        case JobKind.PREPARE_VERSION:
            return Prepared(order=_prepare_version(session, job, dataset, place))


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


def _train(session: Session, job: Job, dataset: Dataset, place: Place) -> Prepared:
    # What the model's earlier versions had to forget stays forgotten, also where the id itself lives on.
    forgotten = (
        select(VersionExclusion.sample_id)
        .join(Version, Version.id == VersionExclusion.version_id)
        .where(Version.model_id == job.model_id, VersionExclusion.cause == versions.FORGOTTEN)
    )
    pool = (Sample.dataset_id == dataset.id, Sample.pool == "train")
    kept = readable.by(session, session.get_one(Model, job.model_id)) & Sample.id.not_in(forgotten)
    train = session.scalars(select(Sample.position).where(*pool, kept).order_by(Sample.position))
    excluded = session.scalars(select(Sample.id).where(*pool, ~kept))
    order = {**on_model(session, job, dataset, place), "train": list(train)}
    return Prepared(order=order, excluded_keys=list(excluded))


def _validate(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    version = session.get_one(Version, job.version_id)
    base = on_model(session, job, dataset, place)
    return {**base, "weights": place.weights(version), "sha256": version.sha256}


def _prepare(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any]:
    pools = samples.positions(session, dataset.id)
    model = session.get_one(Model, job.model_id)
    return {
        **on_model(session, job, dataset, place),
        "pool": sorted(pools.get("train", []) + pools.get("audit", [])),
        "population": pools.get("population", []),
        "models": model.policy.get("reference_models", 8),
        "seed": job.seed,
    }


def _prepare_version(session: Session, job: Job, dataset: Dataset, place: Place) -> dict[str, Any] | None:
    version, model = session.get_one(Version, job.version_id), session.get_one(Model, job.model_id)
    if not preparations.can_be_prepared(session, model, version):
        return None
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == version.id)
    pool = (Sample.dataset_id == dataset.id, Sample.pool == "train", Sample.id.not_in(excluded))
    return {
        **on_model(session, job, dataset, place),
        "prepare": (job.method_options or {})["prepare"],
        "train": list(session.scalars(select(Sample.position).where(*pool).order_by(Sample.position))),
        "weights": place.weights(version),
        "sha256": version.sha256,
    }


def _trim(session: Session, job: Job, place: Place) -> Prepared:
    model = session.get_one(Model, job.model_id)
    file = references.of_model(session, model.id)
    if file is None:
        return Prepared(order=None)
    # The time comes first: what may no longer be read by the end of the job is left to the next one.
    as_of = now()
    gone = retention.gone_positions(session, model.dataset_id, days=retention.days_of(model), at=as_of)
    order = {"kind": job.kind, "out": str(place.out), "positions": gone, "references": place.references(file)}
    return Prepared(order=order, as_of=as_of)
