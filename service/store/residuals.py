"""The ledger of what held the samples of each request, and what became of it.

Rows are written in the transaction that does the thing, or, where bytes are deleted, that proves them gone. What a
row says is evidence only together with the audit entry that each of its steps names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import exists, func, insert, select, tuple_
from sqlalchemy.orm import Session

from service.lifecycle import REQUEST_OPEN, VersionState
from service.store import audit, samples
from service.store.tables import (
    AuditEntry,
    AuditLink,
    DeletionRequest,
    Model,
    PreparedFile,
    RequestSample,
    Residual,
    Sample,
    Version,
    VersionExclusion,
    table_of,
)
from service.store.types import now

VERSION, PREPARATION, CANDIDATE = "version", "preparation", "candidate"
REFERENCES, CACHE, SOURCE = "reference_logits", "cache", "source"
TRAINING = "training_checkpoint"


class State(StrEnum):
    """How far an artefact has come. Those of ``WAITING`` are not the end of it."""

    HELD = "held"
    QUARANTINED = "quarantined"
    RETIRED = "retired"
    REJECTED = "rejected"
    # No row of the store names these bytes any more; the next sweep deletes them.
    TRIMMED = "trimmed"
    REPLACED = "replaced"
    DROPPED = "dropped"
    SHARED = "shared"
    PURGED = "purged"
    OVERWRITTEN = "overwritten"
    # Looked for, and not there.
    ABSENT = "absent"
    # A person says that the disk is gone; nobody could look.
    DECLARED_LOST = "declared_lost"
    SERVED_AGAIN = "served_again"
    PUBLISHED = "published"
    OUT_OF_SCOPE = "out_of_scope"
    NOT_OURS_TO_DELETE = "not_ours_to_delete"


DETACHED = (State.TRIMMED, State.REPLACED, State.DROPPED, State.SHARED)
WAITING = frozenset({State.HELD, State.QUARANTINED, State.RETIRED, State.REJECTED, *DETACHED})
_OF_VERSION = {
    VersionState.QUARANTINED: State.QUARANTINED,
    VersionState.RETIRED: State.RETIRED,
    VersionState.ACTIVE: State.SERVED_AGAIN,
    VersionState.PURGED: State.PURGED,
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Which audit entry speaks of a step: the last one of ``action`` with this link."""

    action: str
    kind: str
    ref: str


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """Something that holds samples. ``sha256``: of its bytes, where it is one file."""

    kind: str
    name: str
    sha256: str | None = None
    version_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is to be written of one artefact. ``at``: when it came so far, if not now."""

    artefact: Artefact
    state: State
    entry: Entry
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """``seq``: of the audit entry that says so."""

    state: str
    at: datetime
    action: str
    seq: int | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """One line of a request's ledger. ``waiting``: something is still to be done. Steps are oldest first."""

    kind: str
    artifact: str
    sha256: str | None
    state: str
    waiting: bool
    steps: tuple[Step, ...]


def of_request(session: Session, request_id: str) -> list[Found]:
    """Return every artefact that held samples of the request, in the order in which they were found."""
    rows = session.scalars(select(Residual).where(Residual.request_id == request_id).order_by(Residual.id)).all()
    seqs = _seqs(session, [step for row in rows for step in row.steps])
    return [
        Found(
            kind=row.kind,
            artifact=row.artifact,
            sha256=row.sha256 or None,
            state=row.state,
            waiting=row.waiting,
            steps=tuple(_step(step, seqs) for step in row.steps),
        )
        for row in rows
    ]


def any_waiting(session: Session, request_id: str) -> bool:
    """Say whether something is still to be done about what held the request's samples."""
    query = select(Residual.id).where(Residual.request_id == request_id, Residual.waiting)
    return session.scalar(query.limit(1)) is not None


def _step(step: dict[str, Any], seqs: dict[tuple[str, str, str], int]) -> Step:
    return Step(
        state=step["state"],
        at=datetime.fromisoformat(step["at"]),
        action=step["action"],
        seq=seqs.get((step["action"], *step["link"])),
    )


def _seqs(session: Session, steps: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], int]:
    links = sorted({tuple(step["link"]) for step in steps})
    actions = sorted({step["action"] for step in steps})
    query = (
        select(AuditEntry.action, AuditLink.kind, AuditLink.ref, func.max(AuditEntry.seq))
        .join(AuditLink, AuditLink.seq == AuditEntry.seq)
        .where(tuple_(AuditLink.kind, AuditLink.ref).in_(links), AuditEntry.action.in_(actions))
        .group_by(AuditEntry.action, AuditLink.kind, AuditLink.ref)
    )
    return {(row[0], row[1], row[2]): row[3] for row in session.execute(query)} if steps else {}


def note(session: Session, request_ids: Sequence[str], artefact: Artefact, *, state: State, entry: Entry) -> None:
    """Write that the artefact holds samples of these requests, and how far it has come; what has ended stays."""
    known = {row.request_id: row for row in _rows(session, artefact, request_ids)} if request_ids else {}
    line = Line(artefact=artefact, state=state, entry=entry)
    _write(session, [(request_id, known.get(request_id), line) for request_id in request_ids])


def note_lines(session: Session, lines: Mapping[str, Sequence[Line]]) -> None:
    """Write, by request, of each artefact that it holds samples of the request, and how far it has come."""
    named = select(Residual).where(samples.one_of(session, Residual.request_id, list(lines)))
    rows = session.scalars(named).all() if any(lines.values()) else []
    known = {(row.request_id, row.artifact, row.sha256): row for row in rows}
    _write(
        session,
        [
            (request_id, known.get((request_id, line.artefact.name, line.artefact.sha256 or "")), line)
            for request_id, its in lines.items()
            for line in its
        ],
    )


def _write(session: Session, found: Sequence[tuple[str, Residual | None, Line]]) -> None:
    new = []
    for request_id, row, line in found:
        if row is None:
            new.append(_new(request_id, line))
        elif row.state != line.state and row.waiting:
            _append(row, line.state, line.entry, line.at)
    if new:
        # In one statement, however many requests there are.
        session.execute(insert(table_of(Residual)), new)


def _new(request_id: str, line: Line) -> dict[str, Any]:
    artefact = line.artefact
    return {
        "request_id": request_id,
        "kind": artefact.kind,
        "artifact": artefact.name,
        "sha256": artefact.sha256 or "",
        "version_id": artefact.version_id,
        "state": line.state,
        "waiting": line.state in WAITING,
        "steps": [_step_of(line.state, line.entry, line.at)],
    }


def advance(
    session: Session,
    artefact: Artefact,
    *,
    state: State,
    entry: Entry,
    request_ids: Sequence[str] | None = None,
) -> list[str]:
    """Write a step for the requests, all of them where none is named, that wait for one; return which did."""
    moved = [row for row in _rows(session, artefact, request_ids, waiting=True) if row.state != state]
    for row in moved:
        _append(row, state, entry, None)
    return [row.request_id for row in moved]


def waiting_for(session: Session, artefact: Artefact) -> list[str]:
    """Return the requests whose samples the artefact still holds."""
    return [row.request_id for row in _rows(session, artefact, None, waiting=True)]


def detached(session: Session, *, after: str = "", limit: int = 20) -> list[str]:
    """Return digests of bytes that held samples and that no row named any more when last looked at, in order."""
    query = select(Residual.sha256).where(Residual.waiting, Residual.state.in_(DETACHED), Residual.sha256 > after)
    return list(session.scalars(query.distinct().order_by(Residual.sha256).limit(limit)))


def detached_purged(session: Session, sha256: str, *, entry: Entry) -> list[str]:
    """Write that such bytes are proven absent; return the requests concerned."""
    query = select(Residual).where(Residual.waiting, Residual.state.in_(DETACHED), Residual.sha256 == sha256)
    rows = session.scalars(query).all()
    for row in rows:
        _append(row, State.PURGED, entry, None)
    return [row.request_id for row in rows]


def of_version(version: Version, model_name: str) -> Artefact:
    """Return the version's weights as the ledger names them."""
    return Artefact(kind=VERSION, name=_version_name(version, model_name), sha256=version.sha256, version_id=version.id)


def of_preparation(file: PreparedFile, version: Version, model_name: str) -> Artefact:
    """Return what was prepared of a version as the ledger names it."""
    name = f"{_version_name(version, model_name)}/prepared/{file.name}"
    return Artefact(kind=PREPARATION, name=name, sha256=file.sha256, version_id=version.id)


def entry_of_version(action: str, version: Version, model_name: str) -> Entry:
    """Return the entry about a version's move, of which there is one of each kind but for quarantines."""
    return Entry(action=action, kind="version", ref=f"{model_name}/{version.number}")


def version_moved(session: Session, version: Version, model_name: str, state: VersionState, *, action: str) -> None:
    """Follow a version that was withheld or taken out of circulation, put back, or purged."""
    entry, artefact = entry_of_version(action, version, model_name), of_version(version, model_name)
    match state:
        case VersionState.QUARANTINED | VersionState.RETIRED:
            concerned = open_requests_known_to(session, version)
            note(session, concerned, artefact, state=_OF_VERSION[state], entry=entry)
            if state == VersionState.RETIRED:
                _note_preparations(session, version, model_name, concerned, entry)
        case VersionState.ACTIVE | VersionState.PURGED:
            advance(session, artefact, state=_OF_VERSION[state], entry=entry)


def _note_preparations(
    session: Session, version: Version, model_name: str, request_ids: Sequence[str], entry: Entry
) -> None:
    for file in session.scalars(select(PreparedFile).where(PreparedFile.version_id == version.id)):
        note(session, request_ids, of_preparation(file, version, model_name), state=State.RETIRED, entry=entry)


def open_requests_known_to(session: Session, version: Version) -> list[str]:
    """Return the open requests that reach the version's model and name a sample that it was trained on."""
    excluded = exists().where(VersionExclusion.version_id == version.id, VersionExclusion.sample_id == Sample.id)
    known = (
        exists()
        .where(RequestSample.request_id == DeletionRequest.id, Sample.id == RequestSample.sample_id)
        .where(Sample.pool == "train", ~excluded)
    )
    model = session.get_one(Model, version.model_id)
    found = session.execute(
        select(DeletionRequest.id, DeletionRequest.models)
        .where(DeletionRequest.dataset_id == model.dataset_id, DeletionRequest.status.in_(REQUEST_OPEN), known)
        .order_by(DeletionRequest.id)
    )
    return [request_id for request_id, models in found if models is None or model.name in models]


def _rows(
    session: Session, artefact: Artefact, request_ids: Sequence[str] | None, *, waiting: bool = False
) -> list[Residual]:
    query = select(Residual).where(Residual.artifact == artefact.name)
    if artefact.sha256 is not None:
        query = query.where(Residual.sha256 == artefact.sha256)
    if request_ids is not None:
        query = query.where(samples.one_of(session, Residual.request_id, request_ids))
    if waiting:  # of all that were ever served, most wait for nothing any more
        query = query.where(Residual.waiting)
    return list(session.scalars(query.order_by(Residual.id)))


def _append(row: Residual, state: State, entry: Entry, at: datetime | None) -> None:
    row.state, row.waiting, row.steps = state, state in WAITING, [*row.steps, _step_of(state, entry, at)]


def _step_of(state: State, entry: Entry, at: datetime | None) -> dict[str, Any]:
    return {"state": state, "at": audit.moment(at or now()), "action": entry.action, "link": [entry.kind, entry.ref]}


def _version_name(version: Version, model_name: str) -> str:
    return f"model/{model_name}/version/{version.number}"
