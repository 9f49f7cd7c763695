"""The reference models' logits of each model: where the file is, and whose rows must leave it."""

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY, JOB_STUCK, JobKind, JobStatus, RequestStatus
from service.store import audit, jobs
from service.store.retention import days_of
from service.store.tables import DeletionRequest, Job, Model, ReferenceFile
from service.store.types import now

PENDING = (JobStatus.QUEUED, *JOB_BUSY)


def of_model(session: Session, model_id: str) -> ReferenceFile | None:
    """Return what was prepared for the model, if anything was."""
    return session.get(ReferenceFile, model_id)


def ask_for(session: Session, model: Model, kind: JobKind) -> Job:
    """Queue a job that prepares the model's references, or trims them, unless one waits or runs already.

    A trim that is stuck waits for a person: asked for at every sweep, it would be tried for ever.
    """
    blocking = (*PENDING, *JOB_STUCK) if kind == JobKind.TRIM else PENDING
    waiting = session.scalar(
        select(Job).where(Job.model_id == model.id, Job.kind == kind, Job.status.in_(blocking)).limit(1)
    )
    return waiting or jobs.create(session, kind, dataset_id=model.dataset_id, model_id=model.id)


def record(session: Session, job: Job, *, sha256: str, models: int, rows: int) -> ReferenceFile:
    """Name the file prepared or trimmed by the job as the model's. Bytes no longer named are swept away."""
    model = session.get_one(Model, job.model_id)
    row = of_model(session, model.id)
    if row is None:
        row = ReferenceFile(model_id=model.id)
        session.add(row)
    row.sha256, row.models, row.rows, row.job_id, row.made_at = sha256, models, rows, job.id, now()
    audit.record(
        session,
        "references.prepared" if job.kind == JobKind.PREPARE else "references.trimmed",
        subject=f"model/{model.name}",
        payload={"sha256": sha256, "models": models, "rows": rows},
        links={"model": model.name, "job": job.id},
    )
    return row


def to_trim(session: Session) -> list[Model]:
    """Return the models whose file holds rows of samples that may no longer be read for audits."""
    found = session.execute(select(Model, ReferenceFile).join(ReferenceFile, ReferenceFile.model_id == Model.id))
    return [model for model, row in found if _has_gone_since(session, model, row)]


def _has_gone_since(session: Session, model: Model, row: ReferenceFile) -> bool:
    retention = timedelta(days=days_of(model))
    query = select(DeletionRequest.id).where(
        DeletionRequest.dataset_id == model.dataset_id,
        DeletionRequest.status == RequestStatus.COMPLETED,
        DeletionRequest.purpose == "privacy",
        DeletionRequest.scope == "full",
        DeletionRequest.completed_at > row.made_at - retention,
        DeletionRequest.completed_at <= now() - retention,
    )
    return session.scalar(query.limit(1)) is not None
