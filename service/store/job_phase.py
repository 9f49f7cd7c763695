"""What a worker says about its own attempt short of its end: evaluation began, or the job is handed back unspent."""

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.lifecycle import JobStatus
from service.store import jobs
from service.store.jobs import Claim
from service.store.tables import Attempt
from service.store.types import now


def begin_evaluation(session: Session, claim: Claim) -> None:
    """Move the claimed job from running to evaluating. Raises LeaseLost."""
    job = jobs.hold_lease(session, claim)
    if job.status == JobStatus.RUNNING:
        jobs.move(session, job, JobStatus.EVALUATING, "job.evaluating", fence=claim.fence)


def hand_back(session: Session, claim: Claim, *, reason: str) -> None:
    """Queue the claimed job again as if this attempt had not been: nothing went wrong with it. Raises LeaseLost."""
    job = jobs.hold_lease(session, claim)
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)
        .values(outcome="handed_back", error={"code": "handed_back", "detail": reason}, finished_at=now())
    )
    job.attempts -= 1
    # No bell was heard by anybody who is still there: the next sweep rings again.
    job.rung_at, job.phase, job.done, job.total = None, None, 0, 0
    jobs.move(session, job, JobStatus.QUEUED, "job.handed_back", attempts=job.attempts, reason=reason)
