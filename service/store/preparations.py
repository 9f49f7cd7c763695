"""What was prepared of a version: asked for, named, and gone with the version."""

from collections.abc import Sequence

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import JOB_BUSY, JobKind, JobStatus, VersionState
from service.store import audit, jobs, readable, waiting_jobs
from service.store.models import refuse_without_retain_data
from service.store.tables import (
    Job,
    Model,
    PreparedFile,
    ReferenceFile,
    Sample,
    TrainingCheckpoint,
    Version,
    VersionExclusion,
)

PENDING = (JobStatus.QUEUED, *JOB_BUSY)


def of_version(session: Session, version_id: str) -> list[PreparedFile]:
    """Return what was prepared of the version, by name."""
    query = select(PreparedFile).where(PreparedFile.version_id == version_id).order_by(PreparedFile.name)
    return list(session.scalars(query))


def names_of(session: Session, version_id: str) -> frozenset[str]:
    """Return the names of what was prepared of the version."""
    return frozenset(session.scalars(select(PreparedFile.name).where(PreparedFile.version_id == version_id)))


def ask_for(session: Session, model: Model, version: Version, names: Sequence[str]) -> Job:
    """Queue a job that prepares these of the version, or return the one that waits or runs with the same.

    Raises Conflict where the version is not in circulation, its retained samples may not be read, or an open request
    names some of them: what is made of a person's data is not made anew while it is to be forgotten.
    """
    if version.state != VersionState.ACTIVE:
        detail = f"Version {version.number} is {version.state}; only an active version can be prepared."
        raise Conflict(detail, code="version_not_active")
    refuse_without_retain_data(session, model)
    if requests_open(session, model, version):
        detail = "An open request names samples the version was trained on; prepare the version that comes after it."
        raise Conflict(detail, code="requests_open")
    return _waiting(session, version, names) or jobs.create(
        session,
        JobKind.PREPARE_VERSION,
        dataset_id=model.dataset_id,
        model_id=model.id,
        version_id=version.id,
        method_options={"prepare": sorted(names)},
    )


def ask_where_policy_says(session: Session, model: Model, version: Version) -> None:
    """Queue what the policy wants prepared of each new version, where that can be done now."""
    names = model.policy.get("prepare", ())
    session.flush()
    if names and can_be_prepared(session, model, version):
        ask_for(session, model, version, names)


def ask_where_missing(session: Session) -> None:
    """Queue what policies want prepared of active versions and could not be when they came, or was not asked for then.

    What a stuck job holds up waits for a person: asked for at every sweep, it would be tried for ever.
    """
    for model in session.scalars(select(Model)):
        if wanted := set(model.policy.get("prepare", ())):
            active = (Version.model_id == model.id, Version.state == VersionState.ACTIVE)
            for version in session.scalars(select(Version).where(*active)):
                missing = {
                    name for name in wanted - names_of(session, version.id) if not _held_up(session, version, name)
                }
                if missing and can_be_prepared(session, model, version):
                    ask_for(session, model, version, sorted(missing))


def _held_up(session: Session, version: Version, name: str) -> bool:
    query = select(Job.id).where(Job.version_id == version.id, waiting_jobs.holds_up(name))
    return session.scalar(query.limit(1)) is not None


def can_be_prepared(session: Session, model: Model, version: Version) -> bool:
    """Say whether the version is in circulation and all it was trained on may be read."""
    readable = version.state == VersionState.ACTIVE and model.policy.get("retain_data") != "gone"
    return readable and not requests_open(session, model, version)


def requests_open(session: Session, model: Model, version: Version) -> bool:
    """Say whether a sample that the version was trained on is not freely readable any more."""
    excluded = exists().where(VersionExclusion.version_id == version.id, VersionExclusion.sample_id == Sample.id)
    query = select(Sample.id).where(
        Sample.dataset_id == model.dataset_id, Sample.pool == "train", ~readable.by(session, model), ~excluded
    )
    return session.scalar(query.limit(1)) is not None


def record(
    session: Session, job: Job, version: Version, *, name: str, sha256: str, size: int, samples: int, seconds: float
) -> None:
    """Name a file as what was prepared of the version; one that was prepared before is replaced."""
    row = session.get(PreparedFile, (version.id, name))
    if row is None:
        row = PreparedFile(version_id=version.id, name=name)
        session.add(row)
    row.sha256, row.size_bytes, row.samples, row.seconds, row.job_id = sha256, size, samples, seconds, job.id
    model = session.get_one(Model, version.model_id)
    audit.record(
        session,
        "version.prepared",
        subject=f"model/{model.name}/version/{version.number}",
        payload={"name": name, "sha256": sha256, "samples": samples},
        links={"model": model.name, "version": f"{model.name}/{version.number}", "job": job.id},
    )


def forget(session: Session, version: Version) -> None:
    """Name nothing as prepared of the version any more; for whoever sees to the bytes."""
    for file in of_version(session, version.id):
        session.delete(file)


def in_use(session: Session, sha256: str) -> bool:
    """Say whether a version, a preparation, a candidate, reference logits or a checkpoint name these bytes."""
    query = select(PreparedFile.name).where(PreparedFile.sha256 == sha256)
    named = select(Version.id).where(Version.sha256 == sha256, Version.state != VersionState.PURGED)
    waits = select(Job.id).where(Job.candidate_sha256 == sha256)
    logits = select(ReferenceFile.model_id).where(ReferenceFile.sha256 == sha256)
    kept = select(TrainingCheckpoint.job_id).where(TrainingCheckpoint.sha256 == sha256)
    return any(session.scalar(each.limit(1)) is not None for each in (query, named, waits, logits, kept))


def _waiting(session: Session, version: Version, names: Sequence[str]) -> Job | None:
    found = session.scalars(
        select(Job).where(Job.version_id == version.id, Job.kind == JobKind.PREPARE_VERSION, Job.status.in_(PENDING))
    )
    return next((job for job in found if set(names) <= set((job.method_options or {}).get("prepare", []))), None)
