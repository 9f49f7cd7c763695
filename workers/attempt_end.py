"""How an attempt ends: its job done, or given up with everyone told who waits for it."""

from typing import Any

from sqlalchemy.orm import Session

from service.lifecycle import JobStatus, VersionState
from service.store import datasets, jobs, requests, settling, versions
from service.store.jobs import Claim
from service.store.tables import Dataset, Job, Version


def finish(session: Session, claim: Claim, job: Job, status: JobStatus, action: str, **payload: Any) -> None:
    """End the attempt and its job well."""
    job.error = None
    jobs.end_attempt(session, claim, str(status))
    jobs.note(session, job, "job.attempt_finished", {"outcome": str(status), "fence": claim.fence})
    jobs.move(session, job, status, action, **payload)
    session.flush()


def failed(session: Session, claim: Claim, error: dict[str, Any], suppression_key: bytes, *, status: JobStatus) -> None:
    """Record a failure that another try would repeat; an operator decides what comes next."""
    job = jobs.hold_lease(session, claim)
    jobs.end_attempt(session, claim, str(status), error)
    give_up(session, job, error, suppression_key, status=status)


def give_up(
    session: Session, job: Job, error: dict[str, Any], suppression_key: bytes, *, status: JobStatus | None
) -> None:
    """Tell everyone who waits for the job that it will not go on by itself. ``status`` None: it moved already.

    For whoever holds the job's row.
    """
    datasets.lock(session, job.dataset_id)
    job.error = {key: value for key, value in error.items() if key in ("code", "detail")}
    if status is not None:
        jobs.note(session, job, "job.attempt_finished", {"outcome": str(status), "code": error.get("code")})
        jobs.move(session, job, status, f"job.{status}", code=error.get("code"))
    if job.kind in ("index", "reindex"):
        datasets.mark_failed(session, session.get_one(Dataset, job.dataset_id), job.error)
    if job.kind == "validate" and job.version_id:
        version = session.get_one(Version, job.version_id)
        if version.state == VersionState.VALIDATING:
            version.error = job.error
            versions.move(session, version, VersionState.REJECTED, code=error.get("code"))
    session.flush()
    settling.settle_all(session, requests.of_job(session, job.id), suppression_key=suppression_key)
