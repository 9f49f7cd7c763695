"""/v1/jobs: where a piece of work stands, and another try for one that is stuck."""

from typing import Annotated, Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.auth import Principal
from service.deps import PartsDep, needs, writing_as
from service.errors import Conflict
from service.lifecycle import JobKind, VersionState
from service.schemas.jobs import CheckpointErrorOut, CheckpointOut, JobOut, ProgressOut
from service.store import approval, datasets, jobs, training_checkpoints
from service.store.tables import Dataset, Job, Model, Version

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


def view(session: Session, job: Job) -> JobOut:
    same = ("id", "kind", "status", "method", "rung", "rungs", "attempts", "error", "evaluation_id", "approved_by")
    times = ("due_at", "not_before", "on_hold", "created_at", "started_at", "finished_at")
    kept = training_checkpoints.of_job(session, job.id)
    return JobOut(
        model=session.scalar(select(Model.name).where(Model.id == job.model_id)),
        dataset=str(session.scalar(select(Dataset.name).where(Dataset.id == job.dataset_id))),
        version=session.scalar(select(Version.number).where(Version.id == job.version_id)),
        progress=ProgressOut(phase=job.phase, done=job.done, total=job.total),
        checkpoint=None if kept is None else CheckpointOut(epochs=kept.epochs, at=kept.made_at),
        checkpoint_error=_not_kept(session, job),
        resumed_from=list(training_checkpoints.resumed_from(session, job.id)),
        **{field: getattr(job, field) for field in (*same, *times)},
    )


def _not_kept(session: Session, job: Job) -> CheckpointErrorOut | None:
    found = training_checkpoints.not_kept(session, job)
    if found is None:
        return None
    detail = (
        "The training goes on, but a crash now would throw it back to its last checkpoint, or to its beginning. Make "
        "room for the worker and in the artifact store, or mend what refuses; it is tried again at the next one."
    )
    return CheckpointErrorOut(code=found[0], detail=detail, times=found[1])


@router.get("/{job_id}", operation_id="get_job", dependencies=[needs("requests:read")])
def get(job_id: str, parts: PartsDep) -> JobOut:
    with parts.database.reading() as session:
        return view(session, jobs.get(session, job_id))


def _refuse_rejected(session: Session, job: Job) -> None:
    """Raise Conflict for a check of weights that were rejected when it failed: that is their end."""
    if job.kind == JobKind.VALIDATE and session.get_one(Version, job.version_id).state != VersionState.VALIDATING:
        detail = "The weights were rejected when their check failed; upload them again, which makes a new version."
        raise Conflict(detail, code="version_rejected")


@router.post("/{job_id}/approve", status_code=202, operation_id="approve_job")
def approve(job_id: str, parts: PartsDep, who: Annotated[Principal, needs("admin")]) -> JobOut:
    """Publish the model that a held job came to, although its gate did not pass it; the log says who decided."""
    with writing_as(parts, who) as session:
        job = jobs.get(session, job_id)
        if parts.settings.four_eyes == "all":
            approval.refuse_requester_of_job(session, job, who.id)
        jobs.approve(session, job, by=who.name)
        answer = view(session, job)
    parts.bell.ring([job_id])
    return answer


@router.post("/{job_id}/retry", status_code=202, operation_id="retry_job")
def retry(job_id: str, parts: PartsDep, who: Annotated[Any, needs("admin")]) -> JobOut:
    """Queue a held, poisoned or failed job again with a clean count of attempts."""
    with writing_as(parts, who) as session:
        job = jobs.get(session, job_id)
        jobs.retry(session, job)
        _refuse_rejected(session, job)
        if job.kind in (JobKind.INDEX, JobKind.REINDEX):
            datasets.index_again(session, job.dataset_id)
        answer = view(session, job)
    parts.bell.ring([job_id])
    return answer
