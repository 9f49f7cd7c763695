"""Where decoded samples lie: one row for each dataset on each worker's disk, and what its ledgers wait for."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.store import audit, holdings, residuals, retention
from service.store.residuals import Entry, State
from service.store.tables import Dataset, DatasetCache
from service.store.types import new_id


def note(session: Session, *, place: str, machine: str, dataset_id: str) -> None:
    """Write down that a worker keeps the dataset's decoded samples there, unless that is known."""
    if session.get(DatasetCache, (place, dataset_id)) is not None:
        return
    with suppress(IntegrityError), session.begin_nested():  # another process on this machine may write it too
        session.add(DatasetCache(place=place, dataset_id=dataset_id, machine=machine))
        session.flush()


def at(session: Session, place: str) -> list[Dataset]:
    """Return the datasets of which decoded samples lie, or once lay, at the place."""
    query = select(Dataset).join(DatasetCache, DatasetCache.dataset_id == Dataset.id).where(DatasetCache.place == place)
    return list(session.scalars(query.order_by(Dataset.id)))


def due(session: Session, place: str, dataset: Dataset) -> list[str]:
    """Return the requests whose samples are to leave the cache by now: no policy lets an audit read them."""
    waiting = residuals.waiting_for(session, holdings.cache_of(place, dataset))
    days = retention.longest(session, dataset.id) if waiting else 0
    return sorted(retention.over(session, waiting, days=days)) if waiting else []


def cleaned(
    session: Session, place: str, dataset: Dataset, request_ids: Sequence[str], *, state: State, checked: dict[str, Any]
) -> None:
    """Write into the ledgers of these requests what has become of their samples in the cache."""
    cleaning = new_id("cln")
    action = f"cache.{state}"
    entry = Entry(action=action, kind="cleaning", ref=cleaning)
    artefact = holdings.cache_of(place, dataset)
    if moved := residuals.advance(session, artefact, state=state, entry=entry, request_ids=request_ids):
        links = {"cleaning": cleaning, "dataset": dataset.name, "request": moved}
        audit.record(session, action, subject=artefact.name, payload={"requests": len(moved), **checked}, links=links)
