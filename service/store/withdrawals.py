"""Whoever fetched a version that leaves circulation is told to give it up, and can say that they did."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.lifecycle import VersionState
from service.store import audit, outbox, recipients, residuals
from service.store.tables import Model, Residual, Version, Withdrawal
from service.store.types import new_id, now

EVENT = "version.withdrawn"


@dataclass(frozen=True, kw_only=True)
class Told:
    """A withdrawal with what it is about."""

    withdrawal: Withdrawal
    model: str
    version: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many were told, of the versions that held samples of a request, and how many of them acknowledged it."""

    told: int
    acknowledged: int


def version_moved(
    session: Session, version: Version, model_name: str, *, before: VersionState, reasons: Mapping[str, Any]
) -> None:
    """Tell each recipient of a version that leaves circulation, once; take it back where it serves again.

    ``reasons``: what the move's audit entry says. The move was written, so no download comes in between.
    """
    state = VersionState(version.state)
    if state in (VersionState.QUARANTINED, VersionState.RETIRED):
        _tell(session, version, model_name, reasons)
    elif (before, state) == (VersionState.QUARANTINED, VersionState.ACTIVE):
        for row in _standing(session, version.id):
            row.lifted_at = now()


def _tell(session: Session, version: Version, model_name: str, reasons: Mapping[str, Any]) -> None:
    session.flush()
    found = recipients.of_version(session, version.id)
    told = {row.principal_id for row in _standing(session, version.id)} if found else set()
    rows = [
        _announce(session, version, model_name, each.principal_id, reasons)
        for each in found
        if each.principal_id not in told
    ]
    if rows:
        named = [{"withdrawal": row.id, "recipient": row.principal_id} for row in rows]
        _record(session, EVENT, version, model_name, {"reason": rows[0].reason, "recipients": named})


def _announce(
    session: Session, version: Version, model_name: str, principal_id: str, reasons: Mapping[str, Any]
) -> Withdrawal:
    withdrawal_id, reason = new_id("wdr"), str(reasons.get("reason", version.state))
    data = {
        "recipient": principal_id,
        "withdrawal": withdrawal_id,
        "model": model_name,
        "version": version.number,
        "sha256": version.sha256,
        "state": version.state,
        "reason": reason,
        "successor": reasons.get("successor"),
        "acknowledge": f"/v1/withdrawals/{withdrawal_id}/acknowledge",
    }
    row = Withdrawal(
        id=withdrawal_id,
        version_id=version.id,
        principal_id=principal_id,
        reason=reason,
        event_id=outbox.announce(session, EVENT, data),
    )
    session.add(row)
    return row


def _standing(session: Session, version_id: str) -> list[Withdrawal]:
    query = select(Withdrawal).where(Withdrawal.version_id == version_id, Withdrawal.lifted_at.is_(None))
    return list(session.scalars(query))


def page(session: Session, *, of: str | None, before: str | None, limit: int) -> list[Told]:
    """Return withdrawals, newest first. ``of``: those of one recipient alone."""
    query = _about()
    if of is not None:
        query = query.where(Withdrawal.principal_id == of)
    if before:
        query = query.where(Withdrawal.id < before)
    return [_told(row) for row in session.execute(query.order_by(Withdrawal.id.desc()).limit(limit))]


def get(session: Session, withdrawal_id: str) -> Told:
    """Return the withdrawal. Raises NotFound."""
    row = session.execute(_about().where(Withdrawal.id == withdrawal_id)).one_or_none()
    if row is None:
        raise not_found()
    return _told(row)


def not_found() -> NotFound:
    """Return what is raised for a withdrawal that is not there, or that the caller may not know of."""
    return NotFound("There is no such withdrawal.", code="withdrawal_not_found")


def acknowledge(session: Session, found: Told) -> None:
    """Write that the recipient has given the version up; once is enough."""
    row = found.withdrawal
    session.refresh(row, with_for_update=True)
    if row.acknowledged_at is None:
        row.acknowledged_at = now()
        version = session.get_one(Version, row.version_id)
        _record(session, "version.withdrawal_acknowledged", version, found.model, {"withdrawal": row.id})


def counts_of_request(session: Session, request_id: str) -> Counts:
    """Return how many recipients of the versions in the request's ledger were told, and how many acknowledged."""
    held = select(Residual.version_id).where(Residual.request_id == request_id, Residual.kind == residuals.VERSION)
    counted = select(func.count(), func.count(Withdrawal.acknowledged_at)).where(
        Withdrawal.version_id.in_(held), Withdrawal.lifted_at.is_(None)
    )
    told, acknowledged = session.execute(counted).one()
    return Counts(told=told, acknowledged=acknowledged)


def _about() -> Select[Withdrawal, str, int, str]:
    return (
        select(Withdrawal, Model.name, Version.number, Version.sha256)
        .join(Version, Version.id == Withdrawal.version_id)
        .join(Model, Model.id == Version.model_id)
    )


def _told(row: Any) -> Told:
    return Told(withdrawal=row[0], model=row[1], version=row[2], sha256=row[3])


def _record(session: Session, action: str, version: Version, model_name: str, payload: dict[str, Any]) -> None:
    audit.record(
        session,
        action,
        subject=f"model/{model_name}/version/{version.number}",
        payload={"sha256": version.sha256, **payload},
        links={"model": model_name, "version": f"{model_name}/{version.number}", "sha256": version.sha256},
    )
