"""Deletion requests: their moves, what holds them back, and the jobs and samples that belong to them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import deadlines
from service.errors import NotFound
from service.lifecycle import (
    REQUEST_ENDED,
    RequestStatus,
    check_request_move,
)
from service.store import audit, events, outbox, samples
from service.store.tables import Dataset, DeletionRequest, Job, JobRequest, Model, RequestSample
from service.store.types import now

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


def of_job(session: Session, job_id: str, *, anew: bool = False) -> list[DeletionRequest]:
    """Return the requests a job works for, in order. ``anew``: as they are now, whatever the session has read."""
    query = (
        select(DeletionRequest)
        .join(JobRequest, JobRequest.request_id == DeletionRequest.id)
        .where(JobRequest.job_id == job_id)
        .order_by(DeletionRequest.id)
    )
    return list(session.scalars(query, execution_options={"populate_existing": anew}))


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
