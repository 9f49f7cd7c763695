"""The beginning and the end of the work for deletion requests: started with a job, settled once all jobs are over."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.lifecycle import JOB_OVER, JOB_STUCK, JobKind, JobStatus, RequestStatus, SampleState
from service.store import datasets, holdings, request_outcomes, requests, samples
from service.store.tables import Dataset, DeletionRequest, Job, RequestSample, Sample


def begin(session: Session, job_id: str) -> None:
    """Move the accepted requests of a job that is claimed to ``in_progress``.

    One that is on hold or failed waits for a person, whatever becomes of its other jobs.
    """
    _start(session, job_id, {RequestStatus.ACCEPTED})


def resume(session: Session, job_id: str) -> None:
    """Move the requests of a stuck job that an operator tries again to ``in_progress``, unless a hold stops work."""
    _start(session, job_id, {RequestStatus.ACCEPTED, RequestStatus.FAILED, RequestStatus.ON_HOLD})


def _start(session: Session, job_id: str, waiting: set[RequestStatus]) -> None:
    job = session.get_one(Job, job_id)
    if job.kind != JobKind.ERASE:
        return
    # Two jobs of a request may be claimed in one instant, and only one of the two starts it.
    datasets.lock(session, job.dataset_id)
    found = requests.of_job(session, job_id, anew=True)
    known = _datasets(session, found)
    for request in found:
        if request.status in waiting and not requests.stops_work(request):
            requests.move(session, request, RequestStatus.IN_PROGRESS)
    del known


def settle(session: Session, request: DeletionRequest, *, suppression_key: bytes) -> None:
    """End the request if all its jobs are over; say so if it waits for a person."""
    settle_all(session, [request], suppression_key=suppression_key)


def settle_all(session: Session, found: Sequence[DeletionRequest], *, suppression_key: bytes) -> None:
    """Settle each of the requests, with one statement for all of them wherever a job may work for thousands."""
    waiting = [request for request in found if request.status in requests.OPEN]
    jobs_of = requests.jobs(session, [request.id for request in waiting])
    over: dict[str, list[str]] = {}
    for request in waiting:
        its = jobs_of[request.id]
        newest = {job.model_id: JobStatus(job.status) for job, _ in its}
        stuck = [status for status in newest.values() if status in JOB_STUCK]
        if stuck:
            failed = next((status for status in stuck if status != JobStatus.HELD), None)
            goal = RequestStatus.FAILED if failed else RequestStatus.ON_HOLD
            _wait(session, request, goal, reason=f"job_{failed or JobStatus.HELD}")
        elif request.error is not None:
            _wait(session, request, RequestStatus.ON_HOLD, reason=str(request.error["code"]))
        elif all(job.status in JOB_OVER | JOB_STUCK for job, _ in its):
            over[request.id] = [job.id for job, _ in its if job.status == JobStatus.PUBLISHED]
    if over:
        done = [request for request in waiting if request.id in over]
        _complete(session, done, over, suppression_key=suppression_key)


def _wait(session: Session, request: DeletionRequest, status: RequestStatus, *, reason: str) -> None:
    if request.status != status:
        requests.move(session, request, status, reason=reason)


def _complete(
    session: Session,
    found: Sequence[DeletionRequest],
    published: Mapping[str, Sequence[str]],
    *,
    suppression_key: bytes,
) -> None:
    session.flush()
    keys = requests.sample_keys(session, [request.id for request in found])
    request_outcomes.confirm(session, found)
    # Only a privacy request that reached every model erases the id itself; others change models alone.
    erasing = [request for request in found if request.purpose == "privacy" and request.scope == "full"]
    for dataset_id in sorted({request.dataset_id for request in erasing}):
        named = {key for request in erasing if request.dataset_id == dataset_id for key in keys[request.id]}
        samples.forget_ids(session, suppression_key, dataset_id, sorted(named))
    narrow = [request.id for request in found if request not in erasing]
    if narrow:
        _release(session, narrow, ending=[request.id for request in found])
    holdings.note_all(session, found, keys)
    counts = request_outcomes.of_each(session, found)
    known = _datasets(session, found)
    for request in found:
        requests.move(
            session,
            request,
            RequestStatus.COMPLETED,
            outcomes=counts[request.id],
            jobs=list(published[request.id]),
            scope=request.scope,
            overdue=requests.is_overdue(request),
        )
    del known


def _datasets(session: Session, found: Sequence[DeletionRequest]) -> list[Dataset]:
    """Return the datasets of the requests: as long as somebody holds them, the session does not read them again."""
    return [session.get_one(Dataset, dataset_id) for dataset_id in {request.dataset_id for request in found}]


def release(session: Session, request: DeletionRequest) -> None:
    """Give the request's samples back to their pools, unless another open request names them."""
    _release(session, [request.id], ending=[request.id])


def _release(session: Session, ids: Sequence[str], *, ending: Sequence[str]) -> None:
    """Give back what these requests name. ``ending``: requests that hold nothing back any more, though open still."""
    held = (
        select(RequestSample.sample_id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        .where(DeletionRequest.status.in_(requests.OPEN), ~samples.one_of(session, DeletionRequest.id, ending))
    )
    mine = select(RequestSample.sample_id).where(samples.one_of(session, RequestSample.request_id, ids))
    session.execute(
        update(Sample)
        .where(Sample.id.in_(mine), Sample.id.not_in(held), Sample.state == SampleState.PENDING)
        .values(state=SampleState.LIVE)
    )
