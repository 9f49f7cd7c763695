"""What holds a request's samples when it is completed: written into its ledger, whoever dealt with it before.

What a request does not reach is written down too: a request narrowed to some models says nothing of the others.
"""

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lifecycle import VersionState
from service.store import residuals, samples, versions
from service.store.residuals import Artefact, Entry, Line, State
from service.store.tables import Dataset, DatasetCache, DeletionRequest, Model, PreparedFile, ReferenceFile, Version

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


def note_all(session: Session, request: DeletionRequest, keys: Sequence[int]) -> None:
    """Write down what holds these samples of a request that is being completed."""
    if not keys:
        return
    entry = Entry(action="request.completed", kind="request", ref=request.id)
    trained = samples.of_train_pool(session, keys)
    lines = _of_versions(session, request, trained, entry) if trained else []
    if request.purpose == "privacy":
        lines += _kept_beside(session, request, entry)
    residuals.note_lines(session, request.id, lines)


def _of_versions(session: Session, request: DeletionRequest, trained: Sequence[int], entry: Entry) -> list[Line]:
    # What was gone before the request came held nothing any more.
    there = or_(Version.purged_at.is_(None), Version.purged_at > request.created_at)
    rows = session.execute(
        select(Version, Model.name)
        .join(Model, Model.id == Version.model_id)
        .where(Model.dataset_id == request.dataset_id, Version.state != VersionState.VALIDATING, there)
        .order_by(Model.name, Version.number)
    ).all()
    excluded = versions.exclusions(session, [version.id for version, _ in rows], trained) if rows else {}
    knowing = [row for row in rows if len(excluded.get(row[0].id, ())) < len(trained)]
    reached = request.scope == "full"
    return [line for version, name in knowing for line in _of_version(session, version, name, entry, reached=reached)]


def _of_version(session: Session, version: Version, name: str, entry: Entry, *, reached: bool) -> list[Line]:
    weights = residuals.of_version(version, name)
    state = _STATES.get(VersionState(version.state))
    if state is None:
        return [Line(artefact=weights, state=State.HELD if reached else State.OUT_OF_SCOPE, entry=entry)]
    own = residuals.entry_of_version(_ACTIONS[state], version, name)
    at = version.purged_at if state == State.PURGED else version.retired_at
    files = session.scalars(select(PreparedFile).where(PreparedFile.version_id == version.id)).all()
    prepared = [residuals.of_preparation(file, version, name) for file in files]
    return [
        Line(artefact=weights, state=state, entry=own, at=at),
        *(Line(artefact=file, state=State.RETIRED, entry=own, at=at) for file in prepared),
    ]


def _kept_beside(session: Session, request: DeletionRequest, entry: Entry) -> list[Line]:
    # Only a request that reached every model erases the sample itself; else the files serve the others on.
    held = State.HELD if request.scope == "full" else State.OUT_OF_SCOPE
    dataset = session.get_one(Dataset, request.dataset_id)
    files = [of_references(name, sha256) for name, sha256 in _references(session, dataset)]
    caches = [cache_of(place, dataset) for place in _places(session, dataset)]
    source = Artefact(kind=residuals.SOURCE, name=f"dataset/{dataset.name}/source", sha256=dataset.digest)
    return [
        *(Line(artefact=artefact, state=held, entry=entry) for artefact in [*files, *caches]),
        Line(artefact=source, state=State.NOT_OURS_TO_DELETE, entry=entry),
    ]


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
