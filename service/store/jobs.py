"""Jobs: queueing, claiming under a lease and a fence, and every way a job can end.

Each function that a worker calls about its own attempt takes the fence it claimed under, and raises LeaseLost when
the row has moved on: a worker that slept through its lease can then change nothing.
"""

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, Select, and_, case, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from service.errors import Conflict, NotFound
from service.lifecycle import JOB_BUSY, JOB_STUCK, JobKind, JobStatus, check_job_move
from service.store import audit, candidates, events, gathering, outbox, settling
from service.store.session import Database
from service.store.tables import Attempt, Dataset, DeletionRequest, Job, JobRequest, Model
from service.store.types import new_id, now

# An upload must be judged, and a dataset indexed, before anything else about them makes sense.
_RANK = case((Job.kind.in_((JobKind.INDEX, JobKind.REINDEX)), 0), (Job.kind == JobKind.VALIDATE, 1), else_=2)
# Of a job that is put off until a storage is back.
LONGEST_WAIT_SECONDS = 6 * 3600.0
CLAIM_ORDER = (_RANK, Job.due_at.is_(None), Job.due_at, Job.id)


class LeaseLost(Exception):
    """Another worker may own the job by now; stop, and discard what was done."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a job until the lease ends; ``fence`` names this very claim."""

    job_id: str
    kind: str
    fence: int
    owner: str


def create(
    session: Session,
    kind: JobKind,
    *,
    dataset_id: str,
    model_id: str | None = None,
    version_id: str | None = None,
    purpose: str | None = None,
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    policy_digest: str | None = None,
    request: DeletionRequest | None = None,
) -> Job:
    """Queue a job, for a request where one asks for it; ring the bell (`service.dispatch`) after the commit."""
    job = Job(
        id=new_id("job"),
        kind=kind,
        status=JobStatus.QUEUED,
        dataset_id=dataset_id,
        model_id=model_id,
        version_id=version_id,
        purpose=purpose,
        method=method,
        method_options=method_options,
        policy=policy,
        policy_digest=policy_digest,
        seed=secrets.randbelow(2**31),
        rung_at=now(),
    )
    session.add(job)
    session.flush()
    if request is not None:
        gathering.link(session, job, request)
    note(session, job, "job.queued", {"kind": kind, "method": method, "policy_digest": policy_digest})
    return job


def get(session: Session, job_id: str) -> Job:
    """Return the job. Raises NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound("There is no such job.", code="job_not_found")
    return job


def note(session: Session, job: Job, action: str, payload: dict[str, Any]) -> None:
    """Record an action of a job, findable by its requests, model and dataset, and tell its followers."""
    model, dataset, requests = _concerned(session, job)
    audit.record(
        session,
        action,
        subject=f"job/{job.id}",
        payload=payload,
        links={"job": job.id, "model": model, "dataset": dataset, "request": requests},
    )
    data = {"job": job.id, "model": model, "status": job.status, "action": action.split(".")[1], **payload}
    events.emit(session, "attempt" if "attempt" in action else "state", data, job_id=job.id)


def _concerned(session: Session, job: Job) -> tuple[str | None, str | None, list[str]]:
    """Return the names of the job's model and dataset, and the ids of its requests."""
    model = session.scalar(select(Model.name).where(Model.id == job.model_id)) if job.model_id else None
    dataset = session.scalar(select(Dataset.name).where(Dataset.id == job.dataset_id))
    requests = list(session.scalars(select(JobRequest.request_id).where(JobRequest.job_id == job.id)))
    return model, dataset, requests


def _announce(session: Session, job: Job) -> None:
    """Tell the webhooks that the job is stuck, and by which code, never in whose words."""
    model, dataset, requests = _concerned(session, job)
    data = {"job": job.id, "kind": job.kind, "status": str(job.status), "model": model, "dataset": dataset}
    code = (job.error or {}).get("code")
    told = {"error": code} if outbox.is_code(code) else {}
    outbox.announce(session, f"job.{job.status}", {**data, "requests": requests, **told})


def move(session: Session, job: Job, status: JobStatus, action: str, **payload: Any) -> None:
    """Change a job's status and record it. Raises Conflict for a move that is not allowed."""
    check_job_move(job.status, status)
    job.status = status
    if status not in JOB_BUSY:
        job.owner, job.lease_until = None, None
    if status not in JOB_BUSY and status != JobStatus.QUEUED:
        job.finished_at = now()
    note(session, job, action, payload)
    if status in JOB_STUCK:
        _announce(session, job)


def claim_next(database: Database, *, owner: str, lease_seconds: float) -> Claim | None:
    """Take the most urgent job that may run now, or return None.

    A model has one busy job at a time: the partial unique index decides when two workers take two jobs of one
    model in the same instant, and the loser simply looks again.
    """
    for _ in range(3):
        try:
            with database.writing() as session:
                return _claim(session, owner=owner, lease_seconds=lease_seconds)
        except IntegrityError:
            continue
    return None


def claimable() -> Select[str]:
    """Return the query of the jobs that a worker may claim now."""
    other = aliased(Job)
    busy = exists().where(other.model_id == Job.model_id, other.status.in_(JOB_BUSY))
    return (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, Job.on_hold.is_(False), ~busy, _dataset_at_rest())
        .where(_wait_is_over())
    )


def _wait_is_over() -> ColumnElement[bool]:
    """Say that a job may begin; one that waits for longer than any is put off was put off by a wrong clock."""
    moment = now()
    impossible = and_(Job.attempts > 0, Job.not_before > moment + timedelta(seconds=LONGEST_WAIT_SECONDS))
    return or_(Job.not_before.is_(None), Job.not_before <= moment, impossible)


def _claim(session: Session, *, owner: str, lease_seconds: float) -> Claim | None:
    candidate = claimable().order_by(*CLAIM_ORDER).limit(1).with_for_update(skip_locked=True)
    row = session.execute(
        update(Job)
        .where(Job.id == candidate.scalar_subquery(), Job.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.RUNNING,
            owner=owner,
            lease_until=now() + timedelta(seconds=lease_seconds),
            fence=Job.fence + 1,
            attempts=Job.attempts + 1,
            started_at=case((Job.started_at.is_(None), now()), else_=Job.started_at),
            phase=None,
            done=0,
            total=0,
            error=None,
        )
        .returning(Job.id, Job.kind, Job.fence)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        return None
    session.add(Attempt(job_id=row.id, fence=row.fence, owner=owner, started_at=now()))
    job = session.get_one(Job, row.id)
    settling.begin(session, job.id)
    note(session, job, "job.claimed", {"attempt": job.attempts, "fence": row.fence})
    return Claim(job_id=row.id, kind=row.kind, fence=row.fence, owner=owner)


def _dataset_at_rest() -> ColumnElement[bool]:
    """Say that a job would not read a dataset while it is re-indexed, nor re-index one that is read."""
    other = aliased(Job)
    read = select(other.dataset_id).where(other.status.in_(JOB_BUSY))
    changing = (JobStatus.QUEUED, *JOB_BUSY)
    reindexed = select(other.dataset_id).where(other.kind == JobKind.REINDEX, other.status.in_(changing))
    is_one = Job.kind == JobKind.REINDEX
    return or_(and_(is_one, Job.dataset_id.not_in(read)), and_(~is_one, Job.dataset_id.not_in(reindexed)))


def hold_lease(session: Session, claim: Claim) -> Job:
    """Return the claimed job, locked for this transaction. Raises LeaseLost."""
    job = session.scalar(
        select(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.status.in_(JOB_BUSY))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if job is None:
        raise LeaseLost(claim.job_id)
    return job


def heartbeat(session: Session, claim: Claim, *, lease_seconds: float, progress: tuple[str, int, int] | None) -> None:
    """Lengthen the lease and note the progress. Raises LeaseLost."""
    values: dict[str, Any] = {"lease_until": now() + timedelta(seconds=lease_seconds)}
    if progress is not None:
        values |= dict(zip(("phase", "done", "total"), progress, strict=True))
    done = session.execute(
        update(Job)
        .where(Job.id == claim.job_id, Job.fence == claim.fence, Job.status.in_(JOB_BUSY))
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if isinstance(done, CursorResult) and done.rowcount == 0:
        raise LeaseLost(claim.job_id)


def end_attempt(session: Session, claim: Claim, outcome: str, error: dict[str, Any] | None = None) -> None:
    """Write down how the attempt ended."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)
        .values(outcome=outcome, error=error, finished_at=now())
    )


def expired(session: Session, *, skew_seconds: float = 0.0) -> list[str]:
    """Return the busy jobs whose worker has gone silent; the skew is added to this clock."""
    return list(session.scalars(select(Job.id).where(*_gone_silent(skew_seconds)).order_by(Job.id)))


def take_expired(session: Session, job_id: str, *, skew_seconds: float = 0.0) -> Job | None:
    """Return the job locked for this transaction, if its worker is still silent and nobody else deals with it."""
    query = select(Job).where(Job.id == job_id, *_gone_silent(skew_seconds)).with_for_update(skip_locked=True)
    return session.scalar(query, execution_options={"populate_existing": True})


def _gone_silent(skew_seconds: float) -> tuple[ColumnElement[bool], ...]:
    return Job.status.in_(JOB_BUSY), Job.lease_until < now() + timedelta(seconds=skew_seconds)


def cut_leases(session: Session, *, lease_seconds: float, skew_seconds: float = 0.0) -> None:
    """Have no lease end later than one from now could: it was taken before the clock was set back."""
    moment = now() + timedelta(seconds=skew_seconds)
    too_long = (Job.status.in_(JOB_BUSY), Job.lease_until > moment + timedelta(seconds=2 * lease_seconds))
    # Whose row is locked shows that it lives, and is looked at again at the next sweep.
    found = session.scalars(select(Job.id).where(*too_long).order_by(Job.id).with_for_update(skip_locked=True)).all()
    if found:
        session.execute(
            update(Job)
            .where(Job.id.in_(found))
            .values(lease_until=moment + timedelta(seconds=lease_seconds))
            .execution_options(synchronize_session=False)
        )


def give_back(session: Session, job: Job, *, max_attempts: int, reason: str) -> None:
    """Queue a job again after a lost attempt, or poison it at the cap."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job.id, Attempt.outcome.is_(None))
        .values(outcome="lost", error={"code": "attempt_lost", "detail": reason}, finished_at=now())
    )
    if job.attempts >= max_attempts:
        poison(session, job, reason=reason)
    else:
        move(session, job, JobStatus.QUEUED, "job.requeued", attempts=job.attempts, reason=reason)
        job.rung_at = None


def any_open(session: Session) -> bool:
    """Say whether a job waits or is worked on: something may come of it without any further commit."""
    query = select(Job.id).where(Job.status.in_((JobStatus.QUEUED, *JOB_BUSY))).limit(1)
    return session.scalar(query) is not None


def poison(session: Session, job: Job, *, reason: str) -> None:
    """Take a job out of the queue that used up its attempts, and say what its operator does."""
    job.error = {
        "code": "poisoned",
        "detail": f"{job.attempts} attempts ended without a result ({reason}). Find the cause in the worker's log, "
        f"remove it, then POST /v1/jobs/{job.id}/retry.",
    }
    move(session, job, JobStatus.POISONED, "job.poisoned", attempts=job.attempts, reason=reason)


def to_ring(session: Session, *, older_than_seconds: float) -> list[str]:
    """Return queued jobs whose bell may have been lost, and note that it is rung again."""
    moment = now()
    before = moment - timedelta(seconds=older_than_seconds)
    # Rung in the future: the clock was set back since.
    unheard = or_(Job.rung_at.is_(None), Job.rung_at < before, Job.rung_at > moment)
    ids = list(
        session.scalars(
            select(Job.id)
            .where(Job.status == JobStatus.QUEUED, Job.on_hold.is_(False))
            .where(unheard, _wait_is_over())
            .order_by(Job.id)
            .limit(100)
            .with_for_update(skip_locked=True)
        )
    )
    if ids:
        session.execute(update(Job).where(Job.id.in_(ids)).values(rung_at=now()))
    return ids


def retry(session: Session, job: Job) -> None:
    """Queue a stuck job again with a clean count. Raises Conflict unless it is held, poisoned or failed."""
    session.refresh(job, with_for_update=True)
    if job.status not in JOB_STUCK:
        # The table of moves lets a busy job go back to the queue, but that is for its worker to say.
        raise Conflict(
            f"The job is {job.status}; only one that is stuck can be tried again.", code=f"job_is_{job.status}"
        )
    move(session, job, JobStatus.QUEUED, "job.retried", attempts=job.attempts)
    job.rungs = [{**rung, "before_retry": True} for rung in job.rungs]
    candidates.drop(session, job, action="job.retried")
    job.approved_by, job.rung = None, None
    _start_again(session, job)


def approve(session: Session, job: Job, *, by: str) -> None:
    """Have the candidate of a held job published, whatever its gate said. Raises Conflict where there is none."""
    session.refresh(job, with_for_update=True)
    if job.status != JobStatus.HELD:
        raise Conflict(f"The job is {job.status}; only one that is held can be approved.", code=f"job_is_{job.status}")
    if job.candidate_sha256 is None:
        detail = "No model came out of the attempt, so there is nothing to approve; retry the job instead."
        raise Conflict(detail, code="nothing_to_approve")
    job.approved_by = by
    move(session, job, JobStatus.QUEUED, "job.approved", by=by, method=job.rung, sha256=job.candidate_sha256)
    _start_again(session, job)


def _start_again(session: Session, job: Job) -> None:
    job.attempts, job.error, job.finished_at, job.rung_at = 0, None, None, now()
    settling.resume(session, job.id)
