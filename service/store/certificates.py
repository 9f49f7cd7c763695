"""Certificates: which requests wait for one and for what, each one kept once, and where it is found."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, exists, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from service.errors import Conflict
from service.lifecycle import RequestStatus
from service.store import audit, outbox, requests, residuals, retention, versions
from service.store.residuals import Found, State
from service.store.tables import Certificate, DeletionRequest, Residual, Version
from service.store.types import now

ISSUED, FETCHED = "certificate.issued", "certificate.fetched"
# Weights must be gone. What a worker that is away keeps is stated instead of waited for without end.
PATIENCE = timedelta(minutes=10)
_ENDED = {RequestStatus.CANCELLED: "cancelled", RequestStatus.DENIED: "denied"}

# Written out, since no database looks for a parameter's value in a partial index.
_WITHOUT = DeletionRequest.status == literal_column(f"'{RequestStatus.COMPLETED}'")


def without(session: Session, limit: int = 100, *, besides: Collection[str] = ()) -> list[str]:
    """Return completed requests that have no certificate, oldest first; those whose weights are there still wait.

    ``besides``: requests that are passed over, so that they take no other's place in the page.
    """
    other = aliased(Version)
    shared = exists().where(other.sha256 == Residual.sha256, other.state.in_(versions.LIVE_STATES))
    narrow = or_(DeletionRequest.purpose != "privacy", DeletionRequest.scope == "partial")
    weights_left = exists().where(
        Residual.request_id == DeletionRequest.id,
        Residual.kind == residuals.VERSION,
        Residual.waiting,
        ~and_(narrow, Residual.state == State.RETIRED, shared),
    )
    query = (
        select(DeletionRequest.id)
        .where(_WITHOUT, DeletionRequest.certificate_id.is_(None), ~weights_left)
        .order_by(DeletionRequest.completed_at, DeletionRequest.id)
    )
    if besides:
        query = query.where(DeletionRequest.id.not_in(besides))
    return list(session.scalars(query.limit(limit)))


def waits_for(session: Session, request: DeletionRequest) -> list[str]:
    """Return the artefacts, by name, whose end the certificate of a completed request waits for."""
    return [found.artifact for found in residuals.of_request(session, request.id) if _delays(session, request, found)]


def _delays(session: Session, request: DeletionRequest, found: Found) -> bool:
    if not found.waiting:
        return False
    if found.kind == residuals.VERSION:
        return not _stays_elsewhere(session, request, found)
    # As far from now on either side: a completion in the future was dated by a clock that has been set back since.
    patient = request.completed_at is not None and abs(now() - request.completed_at) < PATIENCE
    # What audits may read for some days more is not waited for either: the certificate says so.
    return patient and not retention.longest(session, request.dataset_id)


def _stays_elsewhere(session: Session, request: DeletionRequest, found: Found) -> bool:
    """Say whether a request that leaves such versions in circulation would wait for the end of one with equal bytes."""
    narrow = request.purpose != "privacy" or request.scope == "partial"
    retired = narrow and found.state == State.RETIRED and found.sha256 is not None
    return retired and versions.digest_in_use(session, str(found.sha256))


def keep(session: Session, request_id: str, row: Certificate) -> bool:
    """Keep the certificate as the request's one and say whether it is: False where it has one."""
    request = session.scalar(select(DeletionRequest).where(DeletionRequest.id == request_id).with_for_update())
    if request is None or request.certificate_id is not None:
        return False
    request.certificate_id = row.id
    session.add(row)
    _record(session, ISSUED, row)
    outbox.announce(session, ISSUED, {"request": request_id, "certificate": row.id, "sha256": row.sha256})
    return True


def get(session: Session, request_id: str) -> Certificate:
    """Return the request's certificate. Raises NotFound, and Conflict that says what it waits for."""
    request = requests.get(session, request_id)
    row = session.scalar(select(Certificate).where(Certificate.request_id == request_id))
    if row is not None:
        return row
    if request.status in _ENDED:
        detail = f"The request was {_ENDED[RequestStatus(request.status)]}; only what was done has a certificate."
        raise _none(detail, "no_certificate", request, [])
    if request.status != RequestStatus.COMPLETED:
        detail = f"The request is {request.status}; its certificate is issued once it is completed."
        raise _none(detail, "certificate_not_ready", request, _open_jobs(session, request))
    waiting = waits_for(session, request)
    detail = "The request is completed; its certificate is issued once what held the samples is gone."
    raise _none(detail, "certificate_not_ready", request, waiting)


def _none(detail: str, code: str, request: DeletionRequest, waiting: Sequence[str]) -> Conflict:
    problem = Conflict(detail, code=code)
    problem.extra |= {"request_status": request.status, "waits_for": list(waiting)}
    return problem


def _open_jobs(session: Session, request: DeletionRequest) -> list[str]:
    found = requests.jobs(session, [request.id])[request.id]
    return [f"job/{job.id} ({job.status})" for job, _ in found if job.finished_at is None]


def note_fetched(session: Session, row: Certificate, *, form: str) -> None:
    """Record that somebody read the certificate."""
    _record(session, FETCHED, row, form=form)


def _record(session: Session, action: str, row: Certificate, **more: Any) -> None:
    audit.record(
        session,
        action,
        subject=f"certificate/{row.id}",
        payload={"request": row.request_id, "sha256": row.sha256, "key_id": row.key_id, **more},
        links={"request": row.request_id, "certificate": row.id},
    )


def links_of_version(session: Session, version: Version) -> dict[str, Any]:
    """Return where the certificates are, or will be, of the requests that took the version out of circulation."""
    query = (
        select(DeletionRequest.id)
        .join(Residual, Residual.request_id == DeletionRequest.id)
        .where(Residual.version_id == version.id, Residual.kind == residuals.VERSION)
        .where(Residual.state != residuals.State.OUT_OF_SCOPE, DeletionRequest.status.not_in(_ENDED))
        .order_by(DeletionRequest.created_at, DeletionRequest.id)
    )
    paths = [path_of(request_id) for request_id in session.scalars(query)]
    return {"certificate": paths[0], "certificates": paths} if paths else {}


def path_of(request_id: str) -> str:
    """Return the path of a request's certificate."""
    return f"/v1/deletion-requests/{request_id}/certificate"
