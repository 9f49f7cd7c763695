"""What people decide about a deletion request: more time, a denial, a legal hold and its release."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from service import deadlines
from service.errors import Conflict
from service.lifecycle import JOB_BUSY, JobKind, JobStatus, RequestStatus, check_request_move
from service.store import (
    attaching,
    deadline_marks,
    decision_notes,
    gathering,
    holds,
    job_phase,
    jobs,
    requests,
    withdrawal,
)
from service.store.tables import DeletionRequest, Job
from service.store.types import now

_HELD = "A person put the request on hold. No work is done for it until POST …/release; its due date stands."


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The request, and the jobs to ring for after the commit."""

    request: DeletionRequest
    ring: list[str] = field(default_factory=list)


def extend(session: Session, request_id: str, *, months: int, note: str, by: str, zone: str) -> Decided:
    """Put the due date off, counted from receipt. Raises NotFound, Conflict, InvalidRequest."""
    request = withdrawal.lock(session, request_id)
    total = request.extended_by + months
    _refuse_extension(request, total)
    said = decision_notes.keep(session, request, "extension", by=by, months=months, note=note, pointer="/reason")
    before, due_at = request.due_at, deadlines.due(request.received_at, zone, extended_by=total)
    request.due_at, request.extended_by = due_at, total
    gone_by = deadlines.reached(request.received_at, due_at, at=now())
    deadline_marks.set_marks(request, last=min(request.mark_reached, gone_by))
    session.flush()
    for job in withdrawal.open_jobs(session, request):
        gathering.set_due(session, job)
    times = {"due_before": before.isoformat() if before else None, "due_at": due_at.isoformat()}
    requests.note(session, request, "request.extended", {"months": months, "extended_by": total, **times, **said})
    return Decided(request=request)


def _refuse_extension(request: DeletionRequest, total: int) -> None:
    _refuse_ended(request, "extended")
    if request.due_at is None:
        raise Conflict("Only a request for privacy has a due date.", code="no_due_date")
    if deadlines.is_overdue(request.due_at, at=now()):
        raise Conflict("The due date has passed; it could only be put off before.", code="due_date_passed")
    if total > deadlines.MAX_EXTENSION_MONTHS:
        detail = (
            f"The request is extended by {request.extended_by} months already. "
            f"{deadlines.MAX_EXTENSION_MONTHS} are the most, which makes three months from its receipt."
        )
        raise Conflict(detail, code="extension_beyond_three_months")


def deny(session: Session, request_id: str, *, reason: str, note: str | None, by: str) -> Decided:
    """End the request without erasing anything. Raises NotFound, Conflict, InvalidRequest."""
    request = withdrawal.lock(session, request_id)
    check_request_move(request.status, RequestStatus.DENIED)
    found = requests.jobs(session, [request.id])[request.id]
    if done := sorted(model for job, model in found if job.status == JobStatus.PUBLISHED):
        detail = f"The samples are erased from {', '.join(done)} already, which cannot be undone."
        raise Conflict(detail, code="work_cannot_be_undone")
    said = decision_notes.keep(session, request, "denial", by=by, reason=reason, note=note, pointer="/note")
    ring = withdrawal.drop_jobs(session, request, reason="request_denied")
    request.error = None
    requests.move(session, request, RequestStatus.DENIED, reason=reason, **said)
    withdrawal.let_go(session, request, reason="request_denied")
    return Decided(request=request, ring=ring)


def hold(session: Session, request_id: str, *, note: str, by: str) -> Decided:
    """Stop all work for the request until a person releases it. Raises NotFound, Conflict, InvalidRequest.

    What a worker is at is discarded, so that it is not published.
    """
    request = withdrawal.lock(session, request_id)
    _refuse_ended(request, "held")
    if requests.cause(request, requests.LEGAL_HOLD) is not None:
        raise Conflict("The request is on hold by a person already.", code="already_on_hold")
    said = decision_notes.keep(session, request, "hold", by=by, note=note, pointer="/reason")
    ring = [job_id for job in withdrawal.open_jobs(session, request) for job_id in _suspend(session, job, request)]
    holds.hold(session, request, requests.LEGAL_HOLD, _HELD)
    if request.status == RequestStatus.FAILED:
        requests.move(session, request, RequestStatus.ON_HOLD, reason=requests.LEGAL_HOLD)
    requests.note(session, request, "request.held", {"cause": requests.LEGAL_HOLD, **said})
    return Decided(request=request, ring=ring)


def _suspend(session: Session, job: Job, request: DeletionRequest) -> list[str]:
    """Have the job wait; one that others need too goes on for them alone, anew where a worker was at it."""
    busy = job.status in JOB_BUSY
    if busy:
        job_phase.discard(session, job, reason=requests.LEGAL_HOLD)
    if not withdrawal.is_shared(session, job, request):
        job.on_hold = True
        return []
    anew = withdrawal.part(session, job, request, reason=requests.LEGAL_HOLD) or busy
    own = jobs.create(
        session,
        JobKind(job.kind),
        dataset_id=job.dataset_id,
        model_id=job.model_id,
        purpose=job.purpose,
        method=job.method,
        method_options=job.method_options,
        policy=job.policy,
        policy_digest=job.policy_digest,
        request=request,
    )
    own.on_hold = True
    return [job.id] if anew else []


def release(session: Session, request_id: str, *, by: str, suppression_key: bytes) -> Decided:
    """Lift the hold a person put on. The request goes on unless something else holds it. Raises NotFound, Conflict."""
    request = withdrawal.lock(session, request_id)
    if requests.cause(request, requests.LEGAL_HOLD) is None:
        why = f" It is on hold: {request.error['code']}." if request.error else ""
        raise Conflict(f"No person has put the request on hold.{why}", code="not_on_hold_by_a_person")
    decision_notes.keep(session, request, "release", by=by)
    requests.note(session, request, "request.released", {"cause": requests.LEGAL_HOLD})
    holds.lift(session, request, requests.LEGAL_HOLD)
    return go_on(session, request, suppression_key=suppression_key)


def go_on(session: Session, request: DeletionRequest, *, suppression_key: bytes) -> Decided:
    """Let the request's jobs go on and queue those it lacks, unless something still stops its work."""
    if requests.stops_work(request):
        return Decided(request=request)
    queued = attaching.take_up(session, request, suppression_key=suppression_key)
    return Decided(request=request, ring=[each.job.id for each in queued if each.new])


def _refuse_ended(request: DeletionRequest, what: str) -> None:
    if request.status not in requests.OPEN:
        detail = f"The request is {request.status}; only one that has not ended can be {what}."
        raise Conflict(detail, code=f"deletion_request_is_{request.status}")
