"""What becomes of an attempt short of its end: evaluation began, or the job goes back to the queue unspent."""

from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from service.lifecycle import JobStatus
from service.store import audit, candidates, jobs
from service.store.jobs import Claim
from service.store.tables import Attempt, Job
from service.store.types import now

WAIT_FACTOR = 4


def begin_attempt(session: Session, claim: Claim, *, rung: str | None, parent_id: str | None) -> str | None:
    """Note that the attempt begins, and with which method; return who approved a candidate that can be published.

    An approval counts only while the version that the candidate was made from is still the one to replace; else it
    is dropped, and the work is done anew. Raises LeaseLost.
    """
    job = jobs.hold_lease(session, claim)
    approved = job.approved_by if job.candidate_sha256 and job.parent_id == parent_id else None
    if approved is None:
        if job.approved_by is not None:
            job.rungs = [{**rung, "before_retry": True} for rung in job.rungs]
        job.rung, job.approved_by = rung, None
        candidates.drop(session, job, action="job.attempt_started")
        of_attempt = (Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)
        session.execute(update(Attempt).where(*of_attempt).values(method=rung))
    method = job.rung or job.method
    jobs.note(session, job, "job.attempt_started", {"method": method, "fence": claim.fence})
    return approved


def begin_evaluation(session: Session, claim: Claim) -> None:
    """Move the claimed job from running to evaluating. Raises LeaseLost."""
    job = jobs.hold_lease(session, claim)
    if job.status == JobStatus.RUNNING:
        jobs.move(session, job, JobStatus.EVALUATING, "job.evaluating", fence=claim.fence)


def hand_back(session: Session, claim: Claim, *, reason: str) -> None:
    """Queue the claimed job again as if this attempt had not been: nothing went wrong with it. Raises LeaseLost."""
    _queue_again(session, jobs.hold_lease(session, claim), "job.handed_back", outcome="handed_back", reason=reason)


def postpone(
    session: Session, claim: Claim, error: dict[str, str], *, max_attempts: int, first_wait_seconds: float
) -> Job:
    """Queue the claimed job again, to wait four times as long after each attempt; poison it at the cap.

    For what time or an operator cures: tried again at once it would only be refused again. Raises LeaseLost.
    """
    job = jobs.hold_lease(session, claim)
    jobs.end_attempt(session, claim, error["code"], error)
    if job.attempts >= max_attempts:
        jobs.poison(session, job, reason=error["code"])
        return job
    seconds = min(first_wait_seconds * WAIT_FACTOR ** (job.attempts - 1), jobs.LONGEST_WAIT_SECONDS)
    job.not_before, job.rung_at = now() + timedelta(seconds=seconds), None
    job.phase, job.done, job.total = None, 0, 0
    until = audit.moment(job.not_before)
    job.error = {"code": error["code"], "detail": f"{error['detail']} The job is tried again at {until}."}
    told = {"attempts": job.attempts, "code": error["code"], "until": until}
    jobs.move(session, job, JobStatus.QUEUED, "job.postponed", **told)
    return job


def discard(session: Session, job: Job, *, reason: str) -> None:
    """Queue a job that a worker is at again, whatever came of the attempt; for whoever holds the row's lock.

    The worker loses its lease, so that it can publish nothing.
    """
    _queue_again(session, job, "job.attempt_discarded", outcome="discarded", reason=reason)


def discard_candidate(session: Session, job: Job, *, reason: str) -> None:
    """Have a job that keeps a candidate begin anew, for whoever holds the row's lock.

    The candidate was made for a request that the job no longer works for: nobody may publish it for the others.
    """
    if job.status == JobStatus.HELD:
        jobs.retry(session, job)
        return
    action = "job.candidate_discarded"
    jobs.note(session, job, action, {"reason": reason, "sha256": job.candidate_sha256})
    candidates.drop(session, job, action=action)
    job.rungs = [{**rung, "before_retry": True} for rung in job.rungs]
    job.approved_by, job.rung = None, None


def _queue_again(session: Session, job: Job, action: str, *, outcome: str, reason: str) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.fence == job.fence)
        .values(outcome=outcome, error={"code": outcome, "detail": reason}, finished_at=now())
    )
    job.attempts -= 1
    # No bell was heard by anybody who is still there: the next sweep rings again.
    job.rung_at, job.phase, job.done, job.total = None, None, 0, 0
    jobs.move(session, job, JobStatus.QUEUED, action, attempts=job.attempts, reason=reason)
