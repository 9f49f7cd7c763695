"""Model versions: their states, what they were trained on, and which of them know a sample."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Select, String, and_, bindparam, case, exists, func, insert, literal, or_, select
from sqlalchemy.orm import Session, aliased

from service.catalogue.webhook_events import EVENTS
from service.errors import Conflict, NotFound
from service.lifecycle import SampleState, VersionState, check_version_move
from service.store import audit, outbox, residuals, samples, withdrawals
from service.store.samples import one_of
from service.store.tables import Dataset, JobRequest, Model, Sample, Version, VersionExclusion, table_of
from service.store.types import new_id, now

LIVE_STATES = (VersionState.VALIDATING, VersionState.ACTIVE, VersionState.QUARANTINED)
FORGOTTEN, ABSENT = "forgotten", "absent"
LOST_IN_RESTORE = "lost_in_restore"
_MOVE_ACTIONS = {
    VersionState.ACTIVE: "version.activated",
    VersionState.REJECTED: "version.rejected",
    VersionState.QUARANTINED: "version.quarantined",
    VersionState.RETIRED: "version.retired",
    VersionState.PURGED: "version.purged",
}


def create(
    session: Session,
    model: Model,
    *,
    state: VersionState,
    role: str,
    origin: str,
    sha256: str,
    size_bytes: int,
    content_sha256: str | None = None,
    parent: Version | None = None,
    job_id: str | None = None,
    method: str | None = None,
    training_seconds: float | None = None,
) -> Version:
    """Add the model's next version. What it was trained on is recorded by `exclude` and `count_training`."""
    session.execute(select(Model.id).where(Model.id == model.id).with_for_update(key_share=True))
    number = session.scalar(select(func.coalesce(func.max(Version.number), 0)).where(Version.model_id == model.id))
    version = Version(
        id=new_id("ver"),
        model_id=model.id,
        number=(number or 0) + 1,
        state=state,
        role=role,
        origin=origin,
        parent_id=parent.id if parent else None,
        sha256=sha256,
        content_sha256=content_sha256,
        size_bytes=size_bytes,
        job_id=job_id,
        method=method,
        training_seconds=training_seconds,
        dataset_digest=session.scalar(select(Dataset.digest).where(Dataset.id == model.dataset_id)),
    )
    session.add(version)
    session.flush()
    payload = {
        "number": version.number,
        "role": role,
        "origin": origin,
        "sha256": sha256,
        "parent": parent.number if parent else None,
        "job": job_id,
    }
    _record(session, "version.created", version, model.name, payload)
    if state == VersionState.ACTIVE:
        _record(session, "version.activated", version, model.name, {"sha256": sha256, "job": job_id})
    return version


def is_lost(version: Version) -> bool:
    """Say whether only the number is left of a version that was made after the backup of a restore."""
    return (version.error or {}).get("code") == LOST_IN_RESTORE


def move(session: Session, version: Version, state: VersionState, **payload: Any) -> None:
    """Change a version's state, record it, keep the ledgers, and tell who fetched it if it leaves circulation.

    Raises Conflict for a move that is not allowed.

    ``job`` or ``request`` in the payload: what brought it about; the entry is found by it too.
    """
    check_version_move(version.state, state)
    before, version.state = VersionState(version.state), state
    if state == VersionState.RETIRED:
        version.retired_at = now()
    if state == VersionState.PURGED:
        version.purged_at = now()
    name = str(session.scalar(select(Model.name).where(Model.id == version.model_id)))
    withdrawals.version_moved(session, version, name, before=before, reasons=payload)
    _record(session, _MOVE_ACTIONS[state], version, name, {"sha256": version.sha256, **payload})
    residuals.version_moved(session, version, name, state, action=_MOVE_ACTIONS[state])


def _record(session: Session, action: str, version: Version, model_name: str, payload: dict[str, Any]) -> None:
    jobs, requests = [version.job_id, payload.get("job")], [payload.get("request")]
    if payload.get("job"):
        requests += session.scalars(select(JobRequest.request_id).where(JobRequest.job_id == payload["job"]))
    audit.record(
        session,
        action,
        subject=f"model/{model_name}/version/{version.number}",
        payload=payload,
        links={
            "model": model_name,
            "version": f"{model_name}/{version.number}",
            "job": [job for job in jobs if job],
            "request": [request for request in requests if request],
            "sha256": version.sha256,
        },
    )
    if action in EVENTS:
        about = {"model": model_name, "version": version.number, "state": str(version.state), "sha256": version.sha256}
        of = {"job": version.job_id, "requests": sorted({request for request in requests if request})}
        outbox.announce(session, action, {**about, **of})


def exclude(session: Session, version: Version, sample_ids: Sequence[int], *, like: Version | None = None) -> None:
    """Record train samples the version was not trained on: the given ones, and all that ``like`` excluded."""
    columns = ["version_id", "sample_id", "cause"]
    if like is not None:
        copied = select(literal(version.id), VersionExclusion.sample_id, VersionExclusion.cause).where(
            VersionExclusion.version_id == like.id, ~one_of(session, VersionExclusion.sample_id, sample_ids)
        )
        session.execute(insert(VersionExclusion).from_select(columns, copied))
    if sample_ids:
        # What the source has no more may come back, and then be trained on.
        cause = case((Sample.state == SampleState.VANISHED, ABSENT), else_=FORGOTTEN)
        session.execute(
            insert(VersionExclusion).from_select(
                columns, select(literal(version.id), Sample.id, cause).where(one_of(session, Sample.id, sample_ids))
            )
        )


def exclude_erased(session: Session, version: Version, dataset_id: str) -> None:
    """Record that an upload was declared to be trained on all that is not erased."""
    erased = select(literal(version.id), Sample.id).where(
        Sample.dataset_id == dataset_id, Sample.pool == "train", Sample.state == SampleState.ERASED
    )
    session.execute(insert(VersionExclusion).from_select(["version_id", "sample_id"], erased))


def count_training(session: Session, version: Version, dataset_id: str) -> None:
    """Set ``training_samples``: the train pool as indexed, minus the version's exclusions."""
    train = session.scalar(
        select(func.count()).select_from(Sample).where(Sample.dataset_id == dataset_id, Sample.pool == "train")
    )
    excluded = session.scalar(
        select(func.count()).select_from(VersionExclusion).where(VersionExclusion.version_id == version.id)
    )
    version.training_samples = (train or 0) - (excluded or 0)


def get(session: Session, model: Model, number: int | str) -> Version:
    """Return a version by number, or the newest active one for ``latest``. Raises NotFound."""
    query = select(Version).where(Version.model_id == model.id)
    if number == "latest":
        query = query.where(Version.state == VersionState.ACTIVE).order_by(Version.number.desc()).limit(1)
    else:
        query = query.where(Version.number == number)
    version = session.scalar(query)
    if version is None:
        detail = "has no active version" if number == "latest" else f"has no version {number}"
        raise NotFound(f"Model {model.name!r} {detail}.", code="version_not_found")
    return version


def page(session: Session, model: Model, *, after: int, limit: int) -> list[Version]:
    return list(
        session.scalars(
            select(Version)
            .where(Version.model_id == model.id, Version.number > after)
            .order_by(Version.number)
            .limit(limit)
        )
    )


_LIVE = (
    select(Version)
    .where(Version.model_id == bindparam("model"), Version.state.in_(LIVE_STATES))
    .order_by(Version.number)
)


def live(session: Session, model_id: str) -> list[Version]:
    """Return the versions still in circulation, or about to be, oldest first."""
    return list(session.scalars(_LIVE, {"model": model_id}))


@cache
def _live_of_dataset() -> Select[Model, Version]:
    live = and_(Version.model_id == Model.id, Version.state.in_(LIVE_STATES))
    return (
        select(Model, Version)
        .outerjoin(Version, live)
        .where(Model.dataset_id == bindparam("dataset"))
        .order_by(Model.id, Version.number)
    )


def live_of_dataset(session: Session, dataset_id: str) -> list[tuple[Model, list[Version]]]:
    """Return every model of the dataset with its live versions, oldest first."""
    found: dict[str, tuple[Model, list[Version]]] = {}
    for model, version in session.execute(_live_of_dataset(), {"dataset": dataset_id}):
        of_model = found.setdefault(model.id, (model, []))[1]
        if version is not None:
            of_model.append(version)
    return list(found.values())


def exclusions(session: Session, version_ids: Sequence[str], keys: Sequence[int]) -> dict[str, frozenset[int]]:
    """Return which of the samples each version was not trained on; one that excludes none is left out."""
    asked = {"versions": samples.packed(session, version_ids), "listed": samples.packed(session, keys)}
    found: dict[str, set[int]] = {}
    for version_id, key in session.execute(_exclusions(samples.dialect_of(session)), asked):
        found.setdefault(version_id, set()).add(key)
    return {version_id: frozenset(excluded) for version_id, excluded in found.items()}


@cache
def _exclusions(dialect: str) -> Select[str, int]:
    table = table_of(VersionExclusion)
    return select(table.c.version_id, table.c.sample_id).where(
        samples.among(dialect, table.c.version_id, String, name="versions"),
        samples.among(dialect, table.c.sample_id, BigInteger),
    )


def trained_on(session: Session, version: Version, sample_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return (key, position) of those samples that the version was trained on, in position order."""
    rows = session.execute(
        _known(samples.dialect_of(session)),
        {"version": version.id, "listed": samples.packed(session, sample_ids)},
    )
    return [(row.id, row.position) for row in rows]


def newest_trained_on(
    session: Session, model_id: str, sample_ids: Sequence[int]
) -> tuple[Version, list[tuple[int, int]]] | None:
    """Return the newest version in circulation that was trained on any of the samples, and `trained_on` of it."""
    for version in reversed(live(session, model_id)):
        if version.state != VersionState.VALIDATING and (known := trained_on(session, version, sample_ids)):
            return version, known
    return None


@cache
def _known(dialect: str) -> Select[int, int]:
    excluded = exists().where(
        VersionExclusion.version_id == bindparam("version"), VersionExclusion.sample_id == Sample.id
    )
    named = samples.among(dialect, Sample.id, BigInteger)
    return select(Sample.id, Sample.position).where(named, Sample.pool == "train", ~excluded).order_by(Sample.position)


PURGES_AT_ONCE = 20
RETIRED_DIGEST = "These weights were retired because they hold erased data; upload weights trained without it."


def refuse_retired_digest(session: Session, sha256: str, content_sha256: str | None = None) -> None:
    """Raise Conflict if these very bytes, or the same tensors, were taken out of circulation before."""
    if was_retired(session, sha256, content_sha256):
        raise Conflict(RETIRED_DIGEST, code="digest_retired")


def was_retired(session: Session, sha256: str, content_sha256: str | None) -> bool:
    """Say whether these bytes or tensors were taken out of circulation, of whichever model and dataset."""
    # A rejected upload ends as purged too, but nothing was wrong with its data: the bytes may fit another model.
    out = or_(Version.state == VersionState.QUARANTINED, Version.retired_at.is_not(None))
    same = Version.sha256 == sha256
    if content_sha256 is not None:
        same = or_(same, Version.content_sha256 == content_sha256)
    return session.scalar(select(Version.id).where(same, out).limit(1)) is not None


def digest_in_use(session: Session, sha256: str) -> bool:
    """Say whether a version that is still in circulation has these bytes."""
    return (
        session.scalar(select(Version.id).where(Version.sha256 == sha256, Version.state.in_(LIVE_STATES)).limit(1))
        is not None
    )


def to_purge(session: Session, *, after: str = "", limit: int = PURGES_AT_ONCE) -> list[Version]:
    """Return versions that are out of circulation and whose bytes no version in circulation has, by their ids."""
    other = aliased(Version)
    shared = exists().where(other.sha256 == Version.sha256, other.state.in_(LIVE_STATES))
    return list(
        session.scalars(
            select(Version)
            .where(Version.state.in_((VersionState.RETIRED, VersionState.REJECTED)), ~shared, Version.id > after)
            .order_by(Version.id)
            .limit(limit)
        )
    )


def without_content_digest(session: Session, *, after: str = "", limit: int = PURGES_AT_ONCE) -> list[Version]:
    """Return versions whose bytes are there and whose tensors were not digested yet, by their ids."""
    query = select(Version).where(Version.content_sha256.is_(None), Version.state != VersionState.PURGED)
    query = query.where(Version.id > after)
    return list(session.scalars(query.order_by(Version.id).limit(limit)))
