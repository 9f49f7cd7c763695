"""Giving open requests the jobs they still need: when a version appears or goes, and when a hold ends."""

from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_STUCK, JobStatus
from service.store import fan_out, holds, request_outcomes, requests, samples, settling, shares, versions
from service.store.fan_out import Concerned, Queued
from service.store.tables import DeletionRequest, Job, JobRequest, Model


def attach_open_requests(session: Session, model: Model, *, suppression_key: bytes | None = None) -> None:
    """Queue what open requests still need of the model's versions, and withhold those versions where it says so.

    To be called when a version has come into being or gone. With the ``suppression_key``, a request that waited for
    nothing but this model is settled.
    """
    live, waiting = versions.live(session, model.id), requests.waiting_for(session, model)
    named = requests.sample_keys(session, [request.id for request in waiting])
    trained = frozenset(samples.of_train_pool(session, sorted({key for keys in named.values() for key in keys})))
    # Asked once for all requests, of which thousands may wait.
    excluded = versions.exclusions(session, [version.id for version in live], sorted(trained))
    to_settle = []
    for request in waiting:
        keys = named[request.id]
        found = fan_out.known_by([(model, live)], trained.intersection(keys), excluded)
        if found:
            _attach(session, request, found[0], keys)
        elif holds.can_be_worked_on(session, request, model.name):
            to_settle.append(request)
    if suppression_key is not None:
        settling.settle_all(session, to_settle, suppression_key=suppression_key)


def take_up(session: Session, request: DeletionRequest, *, suppression_key: bytes) -> list[Queued]:
    """Let the request's jobs start, queue all that it has no job for, and settle it if there is nothing to do.

    To be called when the last cause that stopped its work is lifted. Ring for the jobs returned after the commit.
    """
    freed = [(job, name) for job, name in requests.jobs(session, [request.id])[request.id] if job.on_hold]
    for job, _ in freed:
        job.on_hold = False
    keys = requests.sample_keys(session, [request.id])[request.id]
    registered = versions.live_of_dataset(session, request.dataset_id)
    targets = [pair for pair in registered if request.models is None or pair[0].name in request.models]
    found = fan_out.concerned(session, targets, samples.of_train_pool(session, keys))
    queued = [job for model in found for job in _attach(session, request, model, keys)]
    session.flush()
    settling.settle(session, request, suppression_key=suppression_key)
    return [*(Queued(job=job, model=name, new=True) for job, name in freed if job.status == JobStatus.QUEUED), *queued]


def _attach(session: Session, request: DeletionRequest, model: Concerned, keys: list[int]) -> Sequence[Queued]:
    request_outcomes.mark_trained_on(session, request, sorted(model.keys))
    is_open = _has_open_job(session, request, model.model)
    if not is_open and (reasons := _above_bounds(session, request, model)):
        holds.await_approval(session, request, reasons)
    # What nobody approved withholds nothing, but a missed due date does.
    if requests.cause(request, requests.APPROVAL_NEEDED) is None or requests.is_overdue(request):
        fan_out.withhold(session, request, model)
    if is_open or requests.stops_work(request):
        return ()
    faults = fan_out.unmet(session, request.method, model, keys, purpose=request.purpose)
    if faults:
        holds.cannot_be_worked_on(session, request, model.model.name, faults)
        return ()
    holds.can_be_worked_on(session, request, model.model.name)
    return fan_out.queue(session, request, [model], fan_out.joinable(session, request, [model]))


def _above_bounds(session: Session, request: DeletionRequest, model: Concerned) -> dict[str, list[str]]:
    if request.approved_by is not None:
        return {}
    return shares.above_bounds(session, [model], purpose=request.purpose, above_share=request.approval_above_share)


def _has_open_job(session: Session, request: DeletionRequest, model: Model) -> bool:
    query = (
        select(Job.id)
        .join(JobRequest, JobRequest.job_id == Job.id)
        # A job that is stuck waits for a person; queueing another beside it would go over their head.
        .where(
            JobRequest.request_id == request.id,
            Job.model_id == model.id,
            or_(Job.finished_at.is_(None), Job.status.in_(JOB_STUCK)),
        )
    )
    return session.scalar(query.limit(1)) is not None
