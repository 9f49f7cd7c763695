"""Taking a deletion request out of the work: its jobs, its samples, and what was withheld for its sake.

Cancelling and denying are the same but for who decides and when.
"""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY, JOB_OVER, JobStatus, VersionState
from service.store import candidates, datasets, gathering, job_phase, jobs, requests, settling, versions
from service.store.tables import DeletionRequest, Job, JobRequest, Model


def lock(session: Session, request_id: str) -> DeletionRequest:
    """Return the request, with all its jobs held until the commit. Raises NotFound.

    Jobs first, in the order a claim locks: whoever comes second sees what the first one did.
    """
    request = requests.get(session, request_id)
    while not _hold(session, request):
        pass
    session.refresh(request)
    return request


def _hold(session: Session, request: DeletionRequest) -> bool:
    """Hold the request's jobs, then its dataset; let go of all and say so where a job came to it in between.

    Whoever claims that job holds it and waits for the dataset, so it cannot be waited for from there. No other comes
    once the dataset is held.
    """
    mine = select(JobRequest.job_id).where(JobRequest.request_id == request.id)
    with session.begin_nested() as savepoint:
        held = set(session.scalars(select(Job.id).where(Job.id.in_(mine)).order_by(Job.id).with_for_update()))
        datasets.lock(session, request.dataset_id)
        if held.issuperset(session.scalars(mine)):
            return True
        savepoint.rollback()
    return False


def open_jobs(session: Session, request: DeletionRequest) -> list[Job]:
    """Return the request's jobs that are not over, oldest first."""
    return [job for job, _ in requests.jobs(session, [request.id])[request.id] if job.status not in JOB_OVER]


def is_shared(session: Session, job: Job, request: DeletionRequest) -> bool:
    """Say whether the job works for another request too."""
    others = select(func.count()).where(JobRequest.job_id == job.id, JobRequest.request_id != request.id)
    return bool(session.scalar(others))


def drop_jobs(session: Session, request: DeletionRequest, *, reason: str) -> list[str]:
    """Cancel the request's jobs where nobody else needs them, and part it from the others.

    What a worker is at is discarded: it learns at its next beat, and cannot publish before that either. Return the
    jobs that begin anew for other requests, to be rung for after the commit.
    """
    anew = []
    for job in open_jobs(session, request):
        busy = job.status in JOB_BUSY
        if busy:
            job_phase.discard(session, job, reason=reason)
        if is_shared(session, job, request):
            anew += [job.id] if part(session, job, request, reason=reason) or busy else []
        else:
            jobs.move(session, job, JobStatus.CANCELLED, "job.cancelled", request=request.id)
            candidates.drop(session, job, action="job.cancelled")
    return anew


def part(session: Session, job: Job, request: DeletionRequest, *, reason: str) -> bool:
    """Have the job work for its other requests alone; say whether it gave up a model it was made for this one too."""
    gathering.unlink(session, job, request)
    if job.candidate_sha256 is None:
        return False
    job_phase.discard_candidate(session, job, reason=reason)
    return True


def let_go(session: Session, request: DeletionRequest, *, reason: str) -> None:
    """Give the samples of a request that has ended back, and lift the quarantines that only it had asked for."""
    session.flush()
    settling.release(session, request)
    for model in session.scalars(select(Model).where(Model.dataset_id == request.dataset_id)).all():
        waiting = requests.withheld_keys(session, model)
        for version in versions.live(session, model.id):
            if version.state == VersionState.QUARANTINED and not versions.trained_on(session, version, waiting):
                versions.move(session, version, VersionState.ACTIVE, reason=reason, request=request.id)
