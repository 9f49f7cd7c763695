"""Which versions go out of circulation with another: those it replaces, and those with the same tensors."""

from collections.abc import Collection, Sequence

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, aliased

from service.lifecycle import VersionState
from service.store import datasets, requests, residuals, versions
from service.store.residuals import State
from service.store.tables import DeletionRequest, Job, Model, Residual, Version


def retire_tainted(session: Session, model: Model, successor: Version, keys: Sequence[int], job: Job) -> None:
    """Retire every version of the model that was trained on a sample which the job's requests name.

    ``keys``: those its parent was trained on. A version beside the parent may know others of the same requests.
    """
    asked = requests.sample_keys_of_job(session, job.id)
    named = sorted({*keys, *(key for listed in asked.values() for key in listed)})
    for version in versions.live(session, model.id):
        if version.id == successor.id or version.state == VersionState.VALIDATING:
            continue
        if versions.trained_on(session, version, named):
            versions.move(session, version, VersionState.RETIRED, successor=successor.number, job=job.id)
    retire_same_weights(session)


def retire_same_weights(session: Session) -> int:
    """Retire the versions whose tensors are those of one that a request for erasure took out; return how many.

    What they were declared to be trained on does not count, nor which model and dataset they belong to: equal tensors
    know what the others knew. One that has a job of its own for an open request gets a successor from that job. Those
    of a dataset at which another transaction is at work are left to the next sweep: nobody waits for a second dataset.
    """
    concerned = set(session.scalars(_SAME_WEIGHTS.with_only_columns(_OWN.dataset_id)))
    ours = datasets.lock_idle(session, concerned) if concerned else []
    return _retire_twins(session, ours) if ours else 0


def _retire_twins(session: Session, dataset_ids: Collection[str]) -> int:
    same = _SAME_WEIGHTS.where(_OWN.dataset_id.in_(dataset_ids)).execution_options(populate_existing=True)
    found: dict[str, tuple[Version, str, set[str]]] = {}
    asked: dict[str, bool] = {}  # once of each version, of which thousands of requests may speak
    for twin, gone, model, request_id in session.execute(same):
        own = session.get_one(Model, twin.model_id)
        if own.dataset_id == model.dataset_id and twin.id not in asked:
            asked[twin.id] = bool(residuals.open_requests_known_to(session, twin))
        if own.dataset_id != model.dataset_id or not asked[twin.id]:
            found.setdefault(twin.id, (twin, f"{model.name}/{gone.number}", set()))[2].add(request_id)
    for twin, of, request_ids in found.values():
        versions.move(session, twin, VersionState.RETIRED, reason="same_weights", of=of)
        name = session.get_one(Model, twin.model_id).name
        entry = residuals.entry_of_version("version.retired", twin, name)
        artefact = residuals.of_version(twin, name)
        residuals.note(session, sorted(request_ids), artefact, state=State.RETIRED, entry=entry)
    return len(found)


_GONE, _OWN = aliased(Version), aliased(Model)
_SAME_WEIGHTS = (
    select(Version, _GONE, Model, Residual.request_id)
    .join(_OWN, _OWN.id == Version.model_id)
    .join(_GONE, or_(_GONE.sha256 == Version.sha256, _GONE.content_sha256 == Version.content_sha256))
    .join(Model, Model.id == _GONE.model_id)
    .join(Residual, and_(Residual.version_id == _GONE.id, Residual.kind == residuals.VERSION))
    .join(DeletionRequest, DeletionRequest.id == Residual.request_id)
    .where(
        Version.state.in_((VersionState.ACTIVE, VersionState.QUARANTINED)),
        _GONE.retired_at.is_not(None),
        Residual.state.in_((State.RETIRED, State.PURGED)),
        # Only a request that reached every model says that nobody may be served what it names.
        DeletionRequest.purpose == "privacy",
        DeletionRequest.scope == "full",
    )
    .order_by(Version.id)
)
