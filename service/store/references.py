"""The reference models' logits of each model: where the file is, and whose rows must leave it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY, JOB_STUCK, JobKind, JobStatus, RequestStatus
from service.store import audit, holdings, jobs, residuals, retention
from service.store.models import refuse_without_retain_data
from service.store.residuals import Entry, State
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
    if kind == JobKind.PREPARE:
        refuse_without_retain_data(session, model)
    blocking = (*PENDING, *JOB_STUCK) if kind == JobKind.TRIM else PENDING
    waiting = session.scalar(
        select(Job).where(Job.model_id == model.id, Job.kind == kind, Job.status.in_(blocking)).limit(1)
    )
    return waiting or jobs.create(session, kind, dataset_id=model.dataset_id, model_id=model.id)


def ask_where_policy_says(session: Session, model: Model) -> None:
    """Queue the preparation of a model that has a new version, if its policy wants that and a recipe allows it."""
    if model.policy.get("prepare_audit") and model.recipe is not None and model.policy.get("retain_data") != "gone":
        ask_for(session, model, JobKind.PREPARE)


def record(
    session: Session, job: Job, *, sha256: str, models: int, rows: int, made_at: datetime | None = None
) -> ReferenceFile:
    """Name the file prepared or trimmed by the job as the model's. Bytes no longer named are swept away.

    ``made_at``: when the file was known to hold no row of a sample whose retention was over; now, if it is left out.
    """
    model = session.get_one(Model, job.model_id)
    row = of_model(session, model.id)
    before = None if row is None else row.sha256
    if row is None:
        row = ReferenceFile(model_id=model.id)
        session.add(row)
    row.sha256, row.models, row.rows, row.job_id, row.made_at = sha256, models, rows, job.id, made_at or now()
    audit.record(
        session,
        "references.prepared" if job.kind == JobKind.PREPARE else "references.trimmed",
        subject=f"model/{model.name}",
        payload={"sha256": sha256, "models": models, "rows": rows},
        links={"model": model.name, "job": job.id},
    )
    if before is not None:
        _follow(session, job, model, before=before, row=row)
    return row


def _follow(session: Session, job: Job, model: Model, *, before: str, row: ReferenceFile) -> None:
    """Write into the ledgers that the file they name has given way to another."""
    action = "references.prepared" if job.kind == JobKind.PREPARE else "references.trimmed"
    entry = Entry(action=action, kind="job", ref=job.id)
    old, new = (holdings.of_references(model.name, sha256) for sha256 in (before, row.sha256))
    waiting = residuals.waiting_for(session, old)
    days = retention.days_of(model)
    # What is prepared anew reads no sample that a request names.
    over = set(waiting) if job.kind == JobKind.PREPARE else retention.over(session, waiting, days=days, at=row.made_at)
    if before == row.sha256:
        residuals.advance(session, old, state=State.ABSENT, entry=entry, request_ids=sorted(over))
        return
    kept = [request_id for request_id in waiting if request_id not in over]
    residuals.advance(session, old, state=State.TRIMMED, entry=entry, request_ids=sorted(over))
    residuals.advance(session, old, state=State.REPLACED, entry=entry, request_ids=kept)
    residuals.note(session, kept, new, state=State.HELD, entry=entry)


def trimmed_at(session: Session, model: Model, *, removed: Sequence[int], as_of: datetime) -> datetime | None:
    """Return since when a trim that removed these positions, read at ``as_of``, left nothing to remove.

    A completion that was committed after they were read may carry an earlier time. The file then keeps the time it
    had, and is trimmed again. The caller holds the dataset's lock, so no further one can come in between.
    """
    gone = retention.gone_positions(session, model.dataset_id, days=retention.days_of(model), at=as_of)
    if set(gone) <= set(removed):
        return as_of
    row = of_model(session, model.id)
    return None if row is None else row.made_at


def to_trim(session: Session) -> list[Model]:
    """Return the models whose file holds rows of samples that may no longer be read for audits."""
    found = session.execute(select(Model, ReferenceFile).join(ReferenceFile, ReferenceFile.model_id == Model.id))
    return [model for model, row in found if _has_gone_since(session, model, row)]


def _has_gone_since(session: Session, model: Model, row: ReferenceFile) -> bool:
    readable = timedelta(days=retention.days_of(model))
    query = select(DeletionRequest.id).where(
        DeletionRequest.dataset_id == model.dataset_id,
        DeletionRequest.status == RequestStatus.COMPLETED,
        DeletionRequest.purpose == "privacy",
        DeletionRequest.scope == "full",
        DeletionRequest.completed_at > row.made_at - readable,
        DeletionRequest.completed_at <= now() - readable,
    )
    return session.scalar(query.limit(1)) is not None
