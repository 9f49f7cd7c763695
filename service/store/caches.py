"""Where decoded samples lie: one row for each dataset on each worker's disk, and what its ledgers wait for."""

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import NotFound
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


class Loss(StrEnum):
    """What became of a disk; a word and no free text, since the log keeps it for ever."""

    DESTROYED = "destroyed"
    WIPED = "wiped"
    STOLEN = "stolen"
    MISSING = "missing"


def every(session: Session) -> list[tuple[DatasetCache, str]]:
    """Return each cache with the name of its dataset, by place."""
    query = select(DatasetCache, Dataset.name).join(Dataset, Dataset.id == DatasetCache.dataset_id)
    return [(row[0], row[1]) for row in session.execute(query.order_by(DatasetCache.place, Dataset.name))]


def declare_lost(session: Session, place: str, *, reason: Loss) -> int:
    """Write that a disk is gone for good, with whatever images it held; return how many ledgers waited for it.

    Raises NotFound. If the disk comes back, its worker writes it down anew and cleans it.
    """
    there = at(session, place)
    if not there:
        raise NotFound(f"No worker ever kept decoded samples at {place!r}.", code="cache_not_found")
    count = 0
    for dataset in there:
        waiting = residuals.waiting_for(session, holdings.cache_of(place, dataset))
        cleaned(session, place, dataset, waiting, state=State.DECLARED_LOST, checked={"place": place, "reason": reason})
        count += len(waiting)
    session.execute(delete(DatasetCache).where(DatasetCache.place == place))
    return count


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
