"""/v1/deletion-requests: take requests in, show where they stand, cancel before work starts."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Response
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import deadlines
from service.auth import Principal
from service.catalogue.methods import AUTO, METHODS, MethodConfig, options_of
from service.deps import Parts, PartsDep, needs, writing_as
from service.errors import Fault
from service.evidence.commitments import fingerprint
from service.faults import Step, reach
from service.lanes import long_read, long_write
from service.lifecycle import RequestStatus
from service.problems import validation_faults
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.deletion_requests import DeletionRequestIn, DeletionRequestOut, RequestJobOut, repeated
from service.schemas.request_decisions import DecisionOut
from service.store import (
    cancel,
    datasets,
    decision_notes,
    idempotency,
    intake,
    quotas,
    request_outcomes,
    requests,
    shown_jobs,
)
from service.store.quotas import Quotas
from service.store.shown_jobs import ShownJob
from service.store.tables import DeletionRequest

router = APIRouter(prefix="/v1/deletion-requests", tags=["deletion requests"])
MAX_UNRESOLVED_LISTED = 1_000
# Shown where one request is asked for: too dear for a list, and not known yet when it is taken in.
_OF_ONE = ("forecast_at", "forecast_overdue", "decisions")


def views(session: Session, found: list[DeletionRequest]) -> list[DeletionRequestOut]:
    """Return the documents of some requests."""
    jobs = shown_jobs.of_each(session, [request.id for request in found])
    names = datasets.names(session, {request.dataset_id for request in found})
    outcomes = request_outcomes.of_each(session, found)
    return [
        _document(request, names[request.dataset_id], outcomes=outcomes[request.id], jobs=jobs[request.id])
        for request in found
    ]


def view(session: Session, request: DeletionRequest, parts: Parts) -> DeletionRequestOut:
    """Return the document of one request, with the forecast and what was decided."""
    jobs = shown_jobs.of_each(session, [request.id])[request.id]
    names, outcomes = datasets.names(session, {request.dataset_id}), request_outcomes.of_request(session, request)
    document = _document(request, names[request.dataset_id], outcomes=outcomes, jobs=jobs)
    if request.error is None:
        silent = 4 * parts.settings.sweep_seconds
        document.forecast_at = parts.forecasts.of_jobs(session, jobs, sign_of_life_seconds=silent)
    decided = decision_notes.of_request(session, request)
    document.decisions = [DecisionOut.model_validate(each, from_attributes=True) for each in decided]
    if document.forecast_at is not None:
        document.forecast_overdue = deadlines.is_overdue(request.due_at, at=document.forecast_at)
    return document


def _document(
    request: DeletionRequest, dataset: str, *, outcomes: dict[str, int], jobs: Sequence[ShownJob]
) -> DeletionRequestOut:
    apart = (*_OF_ONE, "dataset", "outcomes", "jobs", "unresolved_sample_ids", "overdue")
    return DeletionRequestOut(
        dataset=dataset,
        overdue=requests.is_overdue(request),
        outcomes=outcomes,
        jobs=[RequestJobOut.model_validate(job, from_attributes=True) for job in jobs],
        **{field: getattr(request, field) for field in DeletionRequestOut.model_fields if field not in apart},
    )


def _answer(session: Session, accepted: intake.Accepted) -> DeletionRequestOut:
    """Return the document of a request just taken in: read back only if it ended at once, for want of work."""
    request = accepted.request
    if not accepted.jobs:
        return views(session, [request])[0]
    outcomes = request_outcomes.at_start(request)
    jobs = [ShownJob.new(job, model) for job, model in accepted.jobs]
    return _document(request, accepted.dataset.name, outcomes=outcomes, jobs=jobs)


def _preferred(body: DeletionRequestIn) -> dict[str, Any]:
    """Return the options given, over those that the purpose prefers to the method's defaults."""
    if body.method == AUTO:
        return body.method_options
    return METHODS[body.method].options_for(body.purpose, body.method_options)


def _left_to_the_task(method: str, chosen: MethodConfig) -> set[str]:
    """Return the options that were not given and that tasks differ in: each model's job fills them in."""
    preferred = {} if method == AUTO else METHODS[method].for_task
    return {option for options in preferred.values() for option in options} - chosen.model_fields_set


def order_of(body: DeletionRequestIn, parts: Parts, who: Principal) -> tuple[intake.Order, list[Fault]]:
    """Return the order and every fault that the body alone shows; the store knows the others."""
    faults = _id_faults(body.sample_ids, parts.settings.max_sample_ids)
    options: dict[str, Any] = {}
    if body.method != AUTO and body.method not in METHODS:
        known = ", ".join([AUTO, *METHODS])
        faults.append(Fault("/method", "unknown_method", body.method, f"Known: {known}."))
    else:
        try:
            chosen = options_of(body.method).model_validate(_preferred(body))
            options = chosen.model_dump(mode="json", exclude=_left_to_the_task(body.method, chosen))
        except ValidationError as error:
            faults += [
                Fault(f"/method_options{f.pointer}", f.code, f.value, f.detail)
                for f in validation_faults(error.errors())
            ]
    order = intake.Order(
        dataset=body.dataset,
        sample_ids=body.sample_ids,
        purpose=body.purpose,
        method=body.method,
        method_options=options,
        models=body.models,
        report_unresolved=body.unresolved == "report",
        received_at=body.received_at,
        principal_id=who.id,
        may_read_datasets=who.may("datasets:read"),
    )
    return order, faults


def _id_faults(sample_ids: list[str], most: int) -> list[Fault]:
    if not sample_ids:
        return [Fault("/sample_ids", "no_sample_ids", 0, "Name at least one sample.")]
    if len(sample_ids) > most:
        return [Fault("/sample_ids", "too_many_sample_ids", len(sample_ids), f"At most {most} in one request.")]
    return [Fault("/sample_ids", "duplicate_sample_id", sample_id) for sample_id in repeated(sample_ids)]


@router.post("", status_code=202, operation_id="create_deletion_request", response_model_exclude_none=False)
@long_write
def create(
    body: DeletionRequestIn,
    response: Response,
    background: BackgroundTasks,
    parts: PartsDep,
    who: Annotated[Principal, needs("requests:write")],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> DeletionRequestOut:
    """Ask that the named samples be erased from every model trained on them."""
    try:
        answer, job_ids = _take_in(body, parts, who, idempotency_key)
    except IntegrityError:
        # The same key came twice in one instant and the other was first: now there is an answer to repeat.
        answer, job_ids = _take_in(body, parts, who, idempotency_key)
    if job_ids is None:
        response.headers["Idempotent-Replayed"] = "true"
    # A bell may be slow to reach and may be lost anyway, so the answer does not wait for it.
    if job_ids:
        background.add_task(parts.bell.ring, job_ids)
    response.headers["Location"] = f"/v1/deletion-requests/{answer.id}"
    return answer


def allowed(parts: Parts, who: Principal) -> Quotas:
    """Return the quotas of a key: its own, and the settings' where it has none."""
    settings = parts.settings
    return Quotas.of(
        who.quotas,
        requests_per_day=settings.quota_requests_per_day,
        sample_ids_per_day=settings.quota_sample_ids_per_day,
    )


def _take_in(
    body: DeletionRequestIn, parts: Parts, who: Principal, key: str | None
) -> tuple[DeletionRequestOut, list[str] | None]:
    """Return the answer and the jobs to ring for, which are the new ones: None if this call repeats an earlier one."""
    order, faults = order_of(body, parts, who)
    text = json.dumps(body.model_dump(), sort_keys=True, default=str)
    mark = fingerprint(parts.settings.master_key_bytes, text.encode())
    with writing_as(parts, who) as session:
        earlier = idempotency.find(session, who.id, key, mark)
        if earlier is not None:
            answer, job_ids = DeletionRequestOut.model_validate(earlier), None
            unresolved = intake.unresolved_again(session, order, parts.secrets, first_at=answer.created_at)
        else:
            quotas.check(session, who.id, allowed(parts, who), sample_ids=len(body.sample_ids))
            accepted = intake.accept(session, order, parts.secrets, faults)
            unresolved, job_ids = accepted.unresolved, [each.job.id for each in accepted.queued if each.new]
            session.flush()
            answer = _answer(session, accepted)
            idempotency.keep(session, who.id, key, mark, answer.id, answer.model_dump(mode="json"))
        if order.report_unresolved:
            answer.unresolved_sample_ids = unresolved[:MAX_UNRESOLVED_LISTED]
        reach(Step.REQUEST_INSERTED)
    reach(Step.REQUEST_COMMITTED)
    return answer, job_ids


@router.get("", operation_id="list_deletion_requests", dependencies=[needs("requests:read")])
@long_read
def list_all(
    parts: PartsDep,
    status: Annotated[RequestStatus | None, Query()] = None,
    dataset: str | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Page[DeletionRequestOut]:
    with parts.database.reading() as session:
        dataset_id = datasets.by_name(session, dataset).id if dataset else None
        rows = requests.page(session, before=decode_cursor(cursor), limit=limit, status=status, dataset_id=dataset_id)
        items = views(session, rows)
    return Page(items=items, next_cursor=encode_cursor(rows[-1].id) if len(rows) == limit else None)


@router.get("/{request_id}", operation_id="get_deletion_request", dependencies=[needs("requests:read")])
def get(request_id: str, parts: PartsDep) -> DeletionRequestOut:
    with parts.database.reading() as session:
        return view(session, requests.get(session, request_id), parts)


@router.delete("/{request_id}", operation_id="cancel_deletion_request")
def withdraw(
    request_id: str, parts: PartsDep, who: Annotated[Principal, needs("requests:write")]
) -> DeletionRequestOut:
    """Cancel a request that no worker has started."""
    with writing_as(parts, who) as session:
        request = cancel.cancel(session, request_id)
        session.flush()
        return views(session, [request])[0]
