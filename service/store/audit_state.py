"""What state each request and version had at a moment, by the log alone: its last entry of a state until then."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from service.lifecycle import RequestStatus, VersionState
from service.store.tables import AuditEntry, AuditLink

REQUEST_STATES: Mapping[str, str] = MappingProxyType({f"request.{status}": str(status) for status in RequestStatus})
VERSION_STATES: Mapping[str, str] = MappingProxyType(
    {
        "version.created": str(VersionState.VALIDATING),
        "version.activated": str(VersionState.ACTIVE),
        "version.rejected": str(VersionState.REJECTED),
        "version.quarantined": str(VersionState.QUARANTINED),
        "version.retired": str(VersionState.RETIRED),
        "version.purged": str(VersionState.PURGED),
    }
)
_STATES = {**REQUEST_STATES, **VERSION_STATES}


@dataclass(frozen=True, kw_only=True)
class StateThen:
    """``seq`` and ``since`` are those of the entry that says so."""

    subject: str
    state: str
    since: str
    seq: int
    action: str


def as_of(
    session: Session,
    *,
    at: str,
    model: str | None = None,
    request_id: str | None = None,
    after: str = "",
    limit: int = 100,
) -> list[StateThen]:
    """Return states in the order of subjects: one request's, or those of a model's versions and requests.

    ``at``: a moment as `service.store.audit.moment` writes it. Times are in the order of numbers, so what counts is the
    beginning of the log: all entries until that moment, it included.
    """
    last = (
        select(func.max(AuditEntry.seq))
        .where(AuditEntry.time <= at, AuditEntry.subject > after, _about(at, model=model, request_id=request_id))
        .group_by(AuditEntry.subject)
        .order_by(AuditEntry.subject)
        .limit(limit)
    )
    found = select(AuditEntry).where(AuditEntry.seq.in_(last)).order_by(AuditEntry.subject)
    return [
        StateThen(subject=row.subject, state=_STATES[row.action], since=row.time, seq=row.seq, action=row.action)
        for row in session.scalars(found)
    ]


def _about(at: str, *, model: str | None, request_id: str | None) -> ColumnElement[bool]:
    of_request = AuditEntry.action.in_(REQUEST_STATES)
    if request_id is not None:
        return of_request & AuditEntry.seq.in_(_linked("request", request_id))
    concerned = _linked("model", str(model))
    known_then = select(AuditEntry.seq).where(AuditEntry.seq.in_(concerned), AuditEntry.time <= at)
    requests = select(AuditLink.ref).where(AuditLink.kind == "request", AuditLink.seq.in_(known_then))
    theirs = select(AuditLink.seq).where(AuditLink.kind == "request", AuditLink.ref.in_(requests))
    return or_(
        AuditEntry.action.in_(VERSION_STATES) & AuditEntry.seq.in_(concerned),
        of_request & AuditEntry.seq.in_(theirs),
    )


def _linked(kind: str, ref: str) -> Select[Any]:
    return select(AuditLink.seq).where(AuditLink.kind == kind, AuditLink.ref == ref)
