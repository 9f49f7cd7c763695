"""What holds a request's samples when it is completed: written into its ledger, whoever dealt with it before.

What a request does not reach is written down too: a request narrowed to some models says nothing of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lifecycle import VersionState
from service.store import residuals, samples, training_checkpoints, versions
from service.store.residuals import Artefact, Entry, Line, State
from service.store.tables import (
    Dataset,
    DatasetCache,
    DeletionRequest,
    Model,
    PreparedFile,
    ReferenceFile,
    TrainingCheckpoint,
    Version,
)

_STATES = {
    VersionState.RETIRED: State.RETIRED,
    VersionState.PURGED: State.PURGED,
    VersionState.REJECTED: State.REJECTED,
}
_ACTIONS = {
    State.RETIRED: "version.retired",
    State.PURGED: "version.purged",
    State.REJECTED: "version.rejected",
}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A version that may hold samples, with what was prepared of it."""

    version: Version
    model: str
    files: Sequence[PreparedFile]
    excluded: frozenset[int]


def note_all(session: Session, found: Sequence[DeletionRequest], keys: Mapping[str, Sequence[int]]) -> None:
    """Write down what holds the samples of requests that are being completed. ``keys``: those each names."""
    lines: dict[str, list[Line]] = {}
    for dataset_id in sorted({request.dataset_id for request in found}):
        lines |= _of_dataset(session, dataset_id, [each for each in found if each.dataset_id == dataset_id], keys)
    residuals.note_lines(session, lines)


def _of_dataset(
    session: Session, dataset_id: str, found: Sequence[DeletionRequest], keys: Mapping[str, Sequence[int]]
) -> dict[str, list[Line]]:
    named = sorted({key for request in found for key in keys[request.id]})
    trained = frozenset(samples.of_train_pool(session, named)) if named else frozenset[int]()
    holders = _holders(session, dataset_id, sorted(trained), since=min(request.created_at for request in found))
    beside, stale = _kept_beside(session, dataset_id), training_checkpoints.stale_of(session, dataset_id)
    lines: dict[str, list[Line]] = {}
    for request in found:
        if not keys[request.id]:
            continue
        entry = Entry(action="request.completed", kind="request", ref=request.id)
        lines[request.id] = _of_versions(request, trained.intersection(keys[request.id]), holders, entry)
        if request.purpose == "privacy":
            # Only a request that reached every model erases the sample itself; else the files serve the others on.
            held = State.HELD if request.scope == "full" else State.OUT_OF_SCOPE
            lines[request.id] += [Line(artefact=artefact, state=held, entry=entry) for artefact in beside.files]
            dropped = _given_up(session, stale, request, keys[request.id])
            lines[request.id] += [Line(artefact=artefact, state=State.DROPPED, entry=entry) for artefact in dropped]
            lines[request.id].append(Line(artefact=beside.source, state=State.NOT_OURS_TO_DELETE, entry=entry))
    return lines


def _holders(session: Session, dataset_id: str, trained: Sequence[int], *, since: datetime) -> list[Holder]:
    if not trained:
        return []
    rows = session.execute(
        select(Version, Model.name)
        .join(Model, Model.id == Version.model_id)
        .where(Model.dataset_id == dataset_id, Version.state != VersionState.VALIDATING)
        .where(or_(Version.purged_at.is_(None), Version.purged_at > since))
        .order_by(Model.name, Version.number)
    ).all()
    ids = [version.id for version, _ in rows]
    excluded = versions.exclusions(session, ids, trained) if rows else {}
    files: dict[str, list[PreparedFile]] = {}
    for file in session.scalars(select(PreparedFile).where(samples.one_of(session, PreparedFile.version_id, ids))):
        files.setdefault(file.version_id, []).append(file)
    return [
        Holder(
            version=version,
            model=name,
            files=files.get(version.id, []),
            excluded=excluded.get(version.id, frozenset()),
        )
        for version, name in rows
    ]


def _of_versions(
    request: DeletionRequest, trained: frozenset[int], holders: Sequence[Holder], entry: Entry
) -> list[Line]:
    lines: list[Line] = []
    without = {each.version.sha256 for each in holders if _serves(each) and trained <= each.excluded}
    for holder in holders:
        purged_at = holder.version.purged_at
        # A restore leaves no word of what a lost version was trained on; work done again may come to its very bytes.
        made_again = versions.is_lost(holder.version) and holder.version.sha256 in without
        # What was gone before the request came held nothing any more.
        if not (trained <= holder.excluded or made_again) and (purged_at is None or purged_at > request.created_at):
            lines += _of_version(holder, entry, reached=request.scope == "full")
    return lines


def _serves(holder: Holder) -> bool:
    return holder.version.state in versions.LIVE_STATES


def _of_version(holder: Holder, entry: Entry, *, reached: bool) -> list[Line]:
    version, name = holder.version, holder.model
    weights = residuals.of_version(version, name)
    state = _STATES.get(VersionState(version.state))
    if state is None:
        return [Line(artefact=weights, state=State.HELD if reached else State.OUT_OF_SCOPE, entry=entry)]
    own = residuals.entry_of_version(_ACTIONS[state], version, name)
    at = version.purged_at if state == State.PURGED else version.retired_at
    prepared = [residuals.of_preparation(file, version, name) for file in holder.files]
    return [
        Line(artefact=weights, state=state, entry=own, at=at),
        *(Line(artefact=file, state=State.RETIRED, entry=own, at=at) for file in prepared),
    ]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What holds a dataset's samples beside versions."""

    files: Sequence[Artefact]
    source: Artefact


def _kept_beside(session: Session, dataset_id: str) -> Beside:
    dataset = session.get_one(Dataset, dataset_id)
    files = [of_references(name, sha256) for name, sha256 in _references(session, dataset)]
    caches = [cache_of(place, dataset) for place in _places(session, dataset)]
    source = Artefact(kind=residuals.SOURCE, name=f"dataset/{dataset.name}/source", sha256=dataset.digest)
    return Beside(files=[*files, *caches], source=source)


def _given_up(
    session: Session, rows: Sequence[TrainingCheckpoint], request: DeletionRequest, keys: Sequence[int]
) -> list[Artefact]:
    """Name no checkpoint of a training any more that has read the samples; the next sweep deletes the bytes."""
    known = [row for row in rows if training_checkpoints.knows(session, row, keys, named_at=request.created_at)]
    for row in known:
        if row in session and row not in session.deleted:
            session.delete(row)
    return [Artefact(kind=residuals.TRAINING, name=f"job/{row.job_id}/checkpoint", sha256=row.sha256) for row in known]


def of_references(model_name: str, sha256: str) -> Artefact:
    """Return a model's reference logits as the ledger names them."""
    return Artefact(kind=residuals.REFERENCES, name=f"model/{model_name}/reference-logits", sha256=sha256)


def cache_of(place: str, dataset: Dataset) -> Artefact:
    """Return the decoded samples on one worker's disk as the ledger names them."""
    return Artefact(kind=residuals.CACHE, name=f"cache/{place}/dataset/{dataset.name}")


def _references(session: Session, dataset: Dataset) -> list[tuple[str, str]]:
    rows = session.execute(
        select(Model.name, ReferenceFile.sha256)
        .join(ReferenceFile, ReferenceFile.model_id == Model.id)
        .where(Model.dataset_id == dataset.id)
        .order_by(Model.name)
    )
    return [(row[0], row[1]) for row in rows]


def _places(session: Session, dataset: Dataset) -> list[str]:
    query = select(DatasetCache.place).where(DatasetCache.dataset_id == dataset.id).order_by(DatasetCache.place)
    return list(session.scalars(query))
