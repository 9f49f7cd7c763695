"""Registered datasets."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import AlreadyExists, Conflict, NotFound
from service.store import audit, samples
from service.store.tables import Dataset
from service.store.types import new_id

INDEXING, READY, FAILED = "indexing", "ready", "failed"


def register(session: Session, *, name: str, source: dict[str, Any]) -> Dataset:
    """Add a dataset that is yet to be indexed. Raises AlreadyExists."""
    if session.scalar(select(Dataset.id).where(Dataset.name == name)):
        raise AlreadyExists(f"There is a dataset named {name!r} already; choose another name.")
    dataset = Dataset(id=new_id("ds"), name=name, source=source, state=INDEXING)
    session.add(dataset)
    try:
        session.flush()
    except IntegrityError:  # somebody else took the name in the same instant
        raise AlreadyExists(f"There is a dataset named {name!r} already; choose another name.") from None
    audit.record(
        session,
        "dataset.registered",
        subject=f"dataset/{name}",
        payload={"source": source["source"]},
        links={"dataset": name},
    )
    return dataset


def by_name(session: Session, name: str) -> Dataset:
    """Return the dataset. Raises NotFound."""
    dataset = session.scalar(select(Dataset).where(Dataset.name == name))
    if dataset is None:
        raise NotFound(f"There is no dataset named {name!r}; GET /v1/datasets lists them.", code="dataset_not_found")
    return dataset


def ready(session: Session, name: str) -> Dataset:
    """Return the dataset if its index is complete. Raises NotFound, Conflict."""
    dataset = by_name(session, name)
    if dataset.state != READY:
        raise Conflict(
            f"Dataset {name!r} is {dataset.state}; wait until GET /v1/datasets/{name} says it is ready.",
            code="dataset_not_ready",
        )
    return dataset


def lock(session: Session, dataset_id: str) -> None:
    """Hold the dataset until the commit; after jobs and before all that belongs to it (docs/lock-order.md).

    Taking requests in, publishing versions and settling requests each read what the others write: a version that
    appears while a request is taken in must be seen by one of the two. SQLite has one writer anyway.
    """
    session.execute(select(Dataset.id).where(Dataset.id == dataset_id).with_for_update())


def names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Return the name of each dataset by its id."""
    rows = session.execute(select(Dataset.id, Dataset.name).where(Dataset.id.in_(ids)))
    return {row.id: row.name for row in rows}


def lock_idle(session: Session, dataset_ids: Collection[str]) -> list[str]:
    """Hold those of the datasets that nobody else holds, without waiting for any; return which."""
    query = select(Dataset.id).where(Dataset.id.in_(dataset_ids)).order_by(Dataset.id)
    return list(session.scalars(query.with_for_update(skip_locked=True)))


def page(session: Session, *, after: str, limit: int) -> list[Dataset]:
    return list(session.scalars(select(Dataset).where(Dataset.name > after).order_by(Dataset.name).limit(limit)))


def mark_ready(
    session: Session,
    dataset: Dataset,
    *,
    digest: str,
    num_samples: int,
    num_classes: int,
    image_shape: list[int],
) -> None:
    dataset.state, dataset.error = READY, None
    dataset.digest, dataset.num_samples = digest, num_samples
    dataset.num_classes, dataset.image_shape = num_classes, image_shape
    samples.take_statistics(session)
    audit.record(
        session,
        "dataset.ready",
        subject=f"dataset/{dataset.name}",
        payload={"digest": digest, "num_samples": num_samples, "num_classes": num_classes},
        links={"dataset": dataset.name},
    )


def index_again(session: Session, dataset_id: str) -> None:
    """Say that a dataset whose indexing failed is being indexed after all."""
    dataset = session.get_one(Dataset, dataset_id)
    dataset.state, dataset.error = INDEXING if dataset.digest is None else READY, None


def mark_failed(session: Session, dataset: Dataset, error: dict[str, Any]) -> None:
    """Say that a source could not be read. A dataset that was indexed before stays as it was then."""
    first = dataset.digest is None
    dataset.state, dataset.error = FAILED if first else READY, error
    audit.record(
        session,
        "dataset.failed" if first else "dataset.reindex_failed",
        subject=f"dataset/{dataset.name}",
        payload={"code": error.get("code")},
        links={"dataset": dataset.name},
    )
