"""/healthz and /readyz: the only routes without a key; they tell nothing about data."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.deps import Parts, PartsDep
from service.store import schema, workers
from service.store.tables import AuditHead

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz")
def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz")
def readyz(response: Response, parts: PartsDep) -> dict[str, Any]:
    """Say whether requests can be taken in: database migrated and reachable, artifacts writable, no end in sight."""
    if parts.draining.is_set():
        response.status_code = 503
        return {"status": "draining", "detail": "This process was asked to end; send requests to another."}
    unfit = _unfit(parts)
    checks = {"database": _database(parts), "schema": unfit is None, "artifacts": parts.artifacts.writable()}
    ready = all(checks.values())
    if not ready:
        response.status_code = 503
    found = {"status": "ready" if ready else "not ready", "checks": checks, "workers": _workers(parts)}
    return found if unfit is None else {**found, "detail": unfit}


def _database(parts: Parts) -> bool:
    try:
        with parts.database.reading() as session:
            return session.scalar(select(AuditHead.size)) is not None
    except SQLAlchemyError:
        return False


def _unfit(parts: Parts) -> str | None:
    """Return why this code cannot work on the database's schema; one that cannot be asked is no reason of its own."""
    try:
        return schema.unfit(parts.database)
    except SQLAlchemyError:
        return None


def _workers(parts: Parts) -> int:
    try:
        with parts.database.reading() as session:
            return workers.alive(session, within_seconds=4 * parts.settings.sweep_seconds)
    except SQLAlchemyError:
        return 0
