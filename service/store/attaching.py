"""Giving open requests the jobs they still need: when a version appears or goes, and when a hold ends."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_STUCK, JobStatus
from service.store import fan_out, holds, request_outcomes, requests, samples, settling, shares, versions
from service.store.fan_out import Concerned, Joinable, Queued
from service.store.shares import Classes
from service.store.tables import DeletionRequest, Job, JobRequest, Model, Version


@dataclass(frozen=True, kw_only=True)
class _How:
    """How a request is to be served; those of which it is the same may share a job."""

    purpose: str
    method: str
    options: str


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
    found = {
        request.id: known[0]
        for request in waiting
        if (known := fan_out.known_by([(model, live)], trained.intersection(named[request.id]), excluded))
    }
    reached = [request for request in waiting if request.id in found]
    if reached:
        request_outcomes.mark_trained_on(session, reached, sorted(frozenset().union(*(m.keys for m in found.values()))))
        served = _Served.together(session, found, reached, live, classes=Classes(keys=trained))
    for request in reached:
        _attach(session, request, found[request.id], named[request.id], served)
    to_settle = [
        request
        for request in waiting
        if request.id not in found and holds.can_be_worked_on(session, request, model.name)
    ]
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
    queued: list[Queued] = []
    classes = Classes(keys=keys)
    for model in found:
        request_outcomes.mark_trained_on(session, [request], sorted(model.keys))
        live = [version for version, _ in model.known]
        served = _Served.together(session, {request.id: model}, [request], live, classes=classes)
        queued += _attach(session, request, model, keys, served)
    session.flush()
    settling.settle(session, request, suppression_key=suppression_key)
    return [*(Queued(job=job, model=name, new=True) for job, name in freed if job.status == JobStatus.QUEUED), *queued]


@dataclass(frozen=True, kw_only=True)
class _Served:
    """What is asked once for all requests that a model's versions are to be made to forget.

    ``busy``: those that have a job already. ``fit``: by how they are to be served, the version from which the samples
    of all of them together could be removed, and so those of each.
    """

    busy: frozenset[str]
    fit: Mapping[_How, str]
    classes: Classes
    joinable: dict[_How, Joinable] = field(default_factory=dict)

    @classmethod
    def together(
        cls,
        session: Session,
        found: Mapping[str, Concerned],
        waiting: Sequence[DeletionRequest],
        live: Sequence[Version],
        *,
        classes: Classes,
    ) -> "_Served":
        """Ask for these requests, which all know some of the versions. ``found``: what of each, by its id.

        ``classes``: of all their samples.
        """
        busy = _with_open_job(session, found[waiting[0].id].model, [request.id for request in waiting])
        alike: dict[_How, list[Concerned]] = {}
        for request in waiting:
            if request.id not in busy:
                alike.setdefault(_how(request), []).append(found[request.id])
        fit = {}
        for how, group in alike.items():
            whole = _whole(group, live)
            if not fan_out.unmet(session, how.method, whole, sorted(whole.keys), purpose=how.purpose):
                fit[how] = whole.known[-1][0].id
        return cls(busy=busy, fit=fit, classes=classes)


def _how(request: DeletionRequest) -> _How:
    options = json.dumps(request.method_options, sort_keys=True)
    return _How(purpose=request.purpose, method=request.method, options=options)


def _whole(group: Sequence[Concerned], live: Sequence[Version]) -> Concerned:
    """Return what the versions know of the samples of all requests of a group."""
    keys: dict[str, set[int]] = {version.id: set() for version in live}
    for concerned in group:
        for version, known in concerned.known:
            keys[version.id] |= known
    of_each = [(version, frozenset(keys[version.id])) for version in live if keys[version.id]]
    return Concerned(model=group[0].model, known=of_each)


def _attach(
    session: Session, request: DeletionRequest, model: Concerned, keys: list[int], served: _Served
) -> Sequence[Queued]:
    is_open = request.id in served.busy
    if not is_open and (reasons := _above_bounds(session, request, model, served.classes)):
        holds.await_approval(session, request, reasons)
    # What nobody approved withholds nothing, but a missed due date does.
    if requests.cause(request, requests.APPROVAL_NEEDED) is None or requests.is_overdue(request):
        fan_out.withhold(session, request, model)
    if is_open or requests.stops_work(request):
        return ()
    if served.fit.get(_how(request)) != model.known[-1][0].id:
        faults = fan_out.unmet(session, request.method, model, keys, purpose=request.purpose)
        if faults:
            holds.cannot_be_worked_on(session, request, model.model.name, faults)
            return ()
    holds.can_be_worked_on(session, request, model.model.name)
    return _queue(session, request, model, served.joinable)


def _queue(
    session: Session, request: DeletionRequest, model: Concerned, joinable: dict[_How, Joinable]
) -> Sequence[Queued]:
    how = _how(request)
    if how not in joinable:
        joinable[how] = fan_out.joinable(session, request, [model])
    queued = fan_out.queue(session, request, [model], joinable[how])
    # The next request joins the job that this one began.
    begun = {(model.model.id, str(each.job.policy_digest)): each.job for each in queued if each.new}
    joinable[how] = {**joinable[how], **begun}
    return queued


def _above_bounds(
    session: Session, request: DeletionRequest, model: Concerned, classes: Classes
) -> dict[str, list[str]]:
    if request.approved_by is not None:
        return {}
    bound = request.approval_above_share
    return shares.above_bounds(session, [model], purpose=request.purpose, above_share=bound, classes=classes)


def _with_open_job(session: Session, model: Model, request_ids: Sequence[str]) -> frozenset[str]:
    query = (
        select(JobRequest.request_id)
        .join(Job, JobRequest.job_id == Job.id)
        # A job that is stuck waits for a person; queueing another beside it would go over their head.
        .where(
            samples.one_of(session, JobRequest.request_id, request_ids),
            Job.model_id == model.id,
            or_(Job.finished_at.is_(None), Job.status.in_(JOB_STUCK)),
        )
    )
    return frozenset(session.scalars(query))
