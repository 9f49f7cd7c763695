"""Deletion requests: their moves, and the end of each, when nothing in circulation knows the samples any more."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Update, bindparam, func, select, update
from sqlalchemy.orm import Session

from service import deadlines
from service.errors import NotFound
from service.lifecycle import (
    JOB_OVER,
    JOB_STUCK,
    REQUEST_ENDED,
    JobStatus,
    RequestStatus,
    SampleState,
    check_request_move,
)
from service.store import audit, events, holdings, outbox, samples
from service.store.tables import Dataset, DeletionRequest, Job, JobRequest, Model, RequestSample, Sample, table_of
from service.store.types import now

# Until the request is completed nothing is claimed: both kinds of pending show as ``pending``.
PENDING, PENDING_NOT_TRAINED_ON = "pending", "pending_not_trained_on"
ERASED, NOT_TRAINED_ON = "erased", "erased_not_trained_on"
# A request narrowed to some models can say nothing of the others, which may know the samples.
ERASED_FROM_NAMED, NOT_TRAINED_ON_BY_NAMED = "erased_from_named_models", "not_trained_on_by_named_models"
# Causes of a hold. The first concerns some models alone; any other stops all work until a person lifts it.
CANNOT_BE_WORKED_ON, APPROVAL_NEEDED, LEGAL_HOLD = "cannot_be_worked_on", "approval_needed", "legal_hold"
OPEN = (RequestStatus.ACCEPTED, RequestStatus.IN_PROGRESS, RequestStatus.ON_HOLD, RequestStatus.FAILED)


def get(session: Session, request_id: str) -> DeletionRequest:
    """Return the request. Raises NotFound."""
    request = session.get(DeletionRequest, request_id)
    if request is None:
        raise NotFound("There is no such deletion request.", code="deletion_request_not_found")
    return request


def page(
    session: Session,
    *,
    before: str | None,
    limit: int,
    status: str | None = None,
    dataset_id: str | None = None,
) -> list[DeletionRequest]:
    """Return requests, newest first."""
    query = select(DeletionRequest)
    if before:
        query = query.where(DeletionRequest.id < before)
    if status:
        query = query.where(DeletionRequest.status == status)
    if dataset_id:
        query = query.where(DeletionRequest.dataset_id == dataset_id)
    return list(session.scalars(query.order_by(DeletionRequest.id.desc()).limit(limit)))


def move(session: Session, request: DeletionRequest, status: RequestStatus, **payload: Any) -> None:
    """Change a request's status, record it and tell its followers. Raises Conflict for a move not allowed."""
    check_request_move(request.status, status)
    # A request is accepted once, and what was frozen then stands in that one entry of the log.
    resumed = (request.status, status) == (RequestStatus.ON_HOLD, RequestStatus.ACCEPTED)
    request.status = status
    if status == RequestStatus.IN_PROGRESS and request.started_at is None:
        request.started_at = now()
    if status == RequestStatus.COMPLETED:
        request.completed_at = now()
    if status in REQUEST_ENDED:
        request.ended_at, request.next_mark_at = now(), None
    note(session, request, "request.resumed" if resumed else f"request.{status}", payload)
    _announce(session, request, payload)


def _announce(session: Session, request: DeletionRequest, payload: dict[str, Any]) -> None:
    """Tell the webhooks; of the payload what is a count or a code, since people write the rest."""
    told: dict[str, Any] = {name: payload[name] for name in ("outcomes", "scope", "overdue") if name in payload}
    told |= {name: payload[name] for name in ("reason", "reason_code") if outbox.is_code(payload.get(name))}
    about = {
        "request": request.id,
        "dataset": session.get_one(Dataset, request.dataset_id).name,
        "status": str(request.status),
        "purpose": request.purpose,
        "due_at": request.due_at.isoformat() if request.due_at else None,
    }
    outbox.announce(session, f"request.{request.status}", {**about, **told})


def note(session: Session, request: DeletionRequest, action: str, payload: dict[str, Any]) -> None:
    """Record an action of a request and send it to its followers."""
    dataset = session.get_one(Dataset, request.dataset_id).name
    audit.record(
        session,
        action,
        subject=f"deletion-request/{request.id}",
        payload=payload,
        # An acceptance names the models by their policies, and is found by each.
        links={"request": request.id, "dataset": dataset, "model": list(payload.get("policies", ()))},
    )
    events.emit(session, "state", {"status": request.status, **payload}, request_id=request.id)


def is_overdue(request: DeletionRequest) -> bool:
    """Say whether the request's due date passed before its end, or has passed by now."""
    if request.status in REQUEST_ENDED and request.ended_at is None:
        return False  # it ended before that was noted
    return deadlines.is_overdue(request.due_at, at=request.ended_at or now())


def stops_serving(request: DeletionRequest, model: Model) -> bool:
    """Say whether the model's versions that know the request's samples are withheld while it is open."""
    at_once = model.policy.get("stop_serving") == "immediately"
    return request.purpose == "privacy" and (at_once or is_overdue(request))


def outcomes(session: Session, request: DeletionRequest) -> dict[str, int]:
    """Return how many of the named ids have which outcome."""
    return _outcomes(session, [request])[request.id]


def _outcomes(session: Session, found: Sequence[DeletionRequest]) -> dict[str, dict[str, int]]:
    rows = session.execute(
        select(RequestSample.request_id, RequestSample.outcome, func.count())
        .where(samples.one_of(session, RequestSample.request_id, [request.id for request in found]))
        .group_by(RequestSample.request_id, RequestSample.outcome)
    )
    counts: dict[str, dict[str, int]] = {request.id: {} for request in found}
    for request_id, outcome, count in rows:
        counts[request_id][outcome] = count
    return {request.id: _told(request, counts[request.id]) for request in found}


def _told(request: DeletionRequest, counts: dict[str, int]) -> dict[str, int]:
    pending = counts.pop(PENDING, 0) + counts.pop(PENDING_NOT_TRAINED_ON, 0)
    return {**_counts(request, pending=pending), **counts}


def outcomes_at_start(request: DeletionRequest) -> dict[str, int]:
    """Return what `outcomes` would for a request whose work has not begun, without reading."""
    return _counts(request, pending=request.num_samples - request.already_erased)


def _counts(request: DeletionRequest, *, pending: int) -> dict[str, int]:
    counts = {PENDING: pending, ERASED: 0, NOT_TRAINED_ON: 0}
    if request.scope == "partial":
        counts |= {ERASED_FROM_NAMED: 0, NOT_TRAINED_ON_BY_NAMED: 0}
    return {**counts, "already_erased": request.already_erased, "not_found": request.not_found}


def mark_trained_on(session: Session, request: DeletionRequest, keys: Sequence[int]) -> None:
    """Note that some model was trained on these samples of the request."""
    statement = _marking(samples.dialect_of(session))
    session.execute(statement, {"of_request": request.id, "listed": samples.packed(session, keys)})


@cache
def _marking(dialect: str) -> Update:
    table = table_of(RequestSample)
    named = samples.among(dialect, table.c.sample_id, BigInteger)
    return update(table).where(table.c.request_id == bindparam("of_request"), named).values(outcome=PENDING)


def jobs(session: Session, request_ids: Sequence[str]) -> dict[str, list[tuple[Job, str]]]:
    """Return each request's jobs with the name of their model, oldest first."""
    rows = session.execute(
        select(JobRequest.request_id, Job, Model.name)
        .join(Job, Job.id == JobRequest.job_id)
        .join(Model, Model.id == Job.model_id)
        .where(samples.one_of(session, JobRequest.request_id, request_ids))
        .order_by(Job.id)
    )
    found: dict[str, list[tuple[Job, str]]] = {request_id: [] for request_id in request_ids}
    for request_id, job, name in rows:
        found[request_id].append((job, name))
    return found


def of_job(session: Session, job_id: str, *, lock: bool = False) -> list[DeletionRequest]:
    """Return the requests a job works for, in order. ``lock``: as they are now, held until the commit."""
    query = (
        select(DeletionRequest)
        .join(JobRequest, JobRequest.request_id == DeletionRequest.id)
        .where(JobRequest.job_id == job_id)
        .order_by(DeletionRequest.id)
    )
    if lock:
        query = query.with_for_update(of=DeletionRequest, key_share=True).execution_options(populate_existing=True)
    return list(session.scalars(query))


def sample_keys(session: Session, request_ids: Sequence[str]) -> dict[str, list[int]]:
    """Return the sample keys each request still has to erase."""
    rows = session.execute(
        select(RequestSample.request_id, RequestSample.sample_id).where(
            samples.one_of(session, RequestSample.request_id, request_ids)
        )
    )
    found: dict[str, list[int]] = {request_id: [] for request_id in request_ids}
    for request_id, sample_id in rows:
        found[request_id].append(sample_id)
    return found


def sample_keys_of_job(session: Session, job_id: str) -> dict[str, list[int]]:
    """Return the sample keys of each request that the job works for, however many there are, in the requests' order."""
    rows = session.execute(
        select(RequestSample.request_id, RequestSample.sample_id)
        .join(JobRequest, JobRequest.request_id == RequestSample.request_id)
        .where(JobRequest.job_id == job_id)
        .order_by(RequestSample.request_id)
    )
    found: dict[str, list[int]] = {}
    for request_id, sample_id in rows:
        found.setdefault(request_id, []).append(sample_id)
    return found


def causes(request: DeletionRequest) -> list[dict[str, Any]]:
    """Return why the request is on hold, oldest cause first."""
    error = request.error or {}
    found: list[dict[str, Any]] = error.get("causes") or ([error] if error else [])
    return found


def cause(request: DeletionRequest, code: str) -> dict[str, Any] | None:
    """Return the cause of this code, if it is one."""
    return next((each for each in causes(request) if each["code"] == code), None)


def stops_work(request: DeletionRequest) -> bool:
    """Say whether no model at all may be worked on for the request until a person has lifted a cause."""
    return any(each["code"] != CANNOT_BE_WORKED_ON for each in causes(request))


def begin(session: Session, job_id: str) -> None:
    """Move the accepted requests of a job that is claimed to ``in_progress``.

    One that is on hold or failed waits for a person, whatever becomes of its other jobs.
    """
    _start(session, job_id, {RequestStatus.ACCEPTED})


def resume(session: Session, job_id: str) -> None:
    """Move the requests of a stuck job that an operator tries again to ``in_progress``, unless a hold stops work."""
    _start(session, job_id, {RequestStatus.ACCEPTED, RequestStatus.FAILED, RequestStatus.ON_HOLD})


def _start(session: Session, job_id: str, waiting: set[RequestStatus]) -> None:
    # Two jobs of a request may be claimed in one instant, and only one of the two starts it.
    found = of_job(session, job_id, lock=True)
    known = _datasets(session, found)
    for request in found:
        if request.status in waiting and not stops_work(request):
            move(session, request, RequestStatus.IN_PROGRESS)
    del known


def settle(session: Session, request: DeletionRequest, *, suppression_key: bytes) -> None:
    """End the request if all its jobs are over; say so if it waits for a person."""
    settle_all(session, [request], suppression_key=suppression_key)


def settle_all(session: Session, found: Sequence[DeletionRequest], *, suppression_key: bytes) -> None:
    """Settle each of the requests, with one statement for all of them wherever a job may work for thousands."""
    waiting = [request for request in found if request.status in OPEN]
    jobs_of = jobs(session, [request.id for request in waiting])
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
        move(session, request, status, reason=reason)


def _complete(
    session: Session,
    found: Sequence[DeletionRequest],
    published: Mapping[str, Sequence[str]],
    *,
    suppression_key: bytes,
) -> None:
    session.flush()
    keys = sample_keys(session, [request.id for request in found])
    _set_outcomes(session, found)
    # Only a privacy request that reached every model erases the id itself; others change models alone.
    erasing = [request for request in found if request.purpose == "privacy" and request.scope == "full"]
    for dataset_id in sorted({request.dataset_id for request in erasing}):
        named = {key for request in erasing if request.dataset_id == dataset_id for key in keys[request.id]}
        samples.forget_ids(session, suppression_key, dataset_id, sorted(named))
    narrow = [request.id for request in found if request not in erasing]
    if narrow:
        _release(session, narrow, ending=[request.id for request in found])
    holdings.note_all(session, found, keys)
    counts = _outcomes(session, found)
    known = _datasets(session, found)
    for request in found:
        move(
            session,
            request,
            RequestStatus.COMPLETED,
            outcomes=counts[request.id],
            jobs=list(published[request.id]),
            scope=request.scope,
            overdue=is_overdue(request),
        )
    del known


def _set_outcomes(session: Session, found: Sequence[DeletionRequest]) -> None:
    for partial in (False, True):
        ids = [request.id for request in found if (request.scope == "partial") == partial]
        outcome_of = {
            PENDING: ERASED_FROM_NAMED if partial else ERASED,
            PENDING_NOT_TRAINED_ON: NOT_TRAINED_ON_BY_NAMED if partial else NOT_TRAINED_ON,
        }
        for pending, outcome in outcome_of.items() if ids else ():
            session.execute(
                update(RequestSample)
                .where(samples.one_of(session, RequestSample.request_id, ids), RequestSample.outcome == pending)
                .values(outcome=outcome)
            )


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
        .where(DeletionRequest.status.in_(OPEN), ~samples.one_of(session, DeletionRequest.id, ending))
    )
    mine = select(RequestSample.sample_id).where(samples.one_of(session, RequestSample.request_id, ids))
    session.execute(
        update(Sample)
        .where(Sample.id.in_(mine), Sample.id.not_in(held), Sample.state == SampleState.PENDING)
        .values(state=SampleState.LIVE)
    )


def waiting_for(session: Session, model: Model) -> list[DeletionRequest]:
    """Return the open requests that reach the model, oldest first."""
    found = session.scalars(
        select(DeletionRequest)
        .where(DeletionRequest.dataset_id == model.dataset_id, DeletionRequest.status.in_(OPEN))
        .order_by(DeletionRequest.id)
    )
    return [request for request in found if request.models is None or model.name in request.models]


def withheld_keys(session: Session, model: Model) -> list[int]:
    """Return the keys of all samples for whose sake an open request withholds the model's versions."""
    concerned = [request.id for request in waiting_for(session, model) if stops_serving(request, model)]
    return sorted({key for keys in sample_keys(session, concerned).values() for key in keys})
