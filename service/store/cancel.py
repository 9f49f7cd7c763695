"""Withdrawing a deletion request before any work on it has started."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import JobStatus, RequestStatus, VersionState
from service.store import datasets, gathering, jobs, requests, versions
from service.store.tables import DeletionRequest, Job, JobRequest, Model

# One whose job is stuck has been started; one on hold for want of a method may not have been.
_NOT_STARTED = (RequestStatus.ACCEPTED, RequestStatus.ON_HOLD)


def cancel(session: Session, request_id: str) -> DeletionRequest:
    """Cancel a request that no worker has started, its jobs where nobody else needs them. Raises NotFound, Conflict."""
    # Jobs first, in the order a claim locks: whoever comes second sees what the first one did.
    mine = select(JobRequest.job_id).where(JobRequest.request_id == request_id)
    session.execute(select(Job.id).where(Job.id.in_(mine)).order_by(Job.id).with_for_update())
    request = requests.get(session, request_id)
    datasets.lock(session, request.dataset_id)
    session.refresh(request)
    if request.status == RequestStatus.CANCELLED:
        return request
    if request.status not in _NOT_STARTED or request.started_at is not None:
        raise Conflict(
            f"The request is {request.status}; only one that no worker has started can be cancelled.",
            code="work_has_started",
        )
    for job, _ in requests.jobs(session, [request.id])[request.id]:
        if job.status in (JobStatus.CANCELLED, JobStatus.PUBLISHED, JobStatus.COMPLETED):
            continue
        others = session.scalar(
            select(func.count()).where(JobRequest.job_id == job.id, JobRequest.request_id != request.id)
        )
        if others:
            gathering.unlink(session, job, request)
        else:
            jobs.move(session, job, JobStatus.CANCELLED, "job.cancelled", request=request.id)
    requests.move(session, request, RequestStatus.CANCELLED)
    session.flush()
    requests.release(session, request)
    _serve_again(session, request)
    return request


def _serve_again(session: Session, request: DeletionRequest) -> None:
    """Lift quarantines that only this request had asked for."""
    for model in session.scalars(select(Model).where(Model.dataset_id == request.dataset_id)).all():
        waiting = requests.withheld_keys(session, model)
        for version in versions.live(session, model.id):
            if version.state == VersionState.QUARANTINED and not versions.trained_on(session, version, waiting):
                versions.move(session, version, VersionState.ACTIVE, reason="request_cancelled", request=request.id)
