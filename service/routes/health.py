"""/healthz and /readyz: the only routes without a key; they tell nothing about data."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service.deps import Parts, PartsDep
from service.store import workers
from service.store.tables import AuditHead

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz")
def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz")
def readyz(response: Response, parts: PartsDep) -> dict[str, Any]:
    """Say whether requests can be taken in: database migrated and reachable, artifacts writable."""
    checks = {"database": _database(parts), "artifacts": parts.artifacts.writable()}
    ready = all(checks.values())
    if not ready:
        response.status_code = 503
    return {"status": "ready" if ready else "not ready", "checks": checks, "workers": _workers(parts)}


def _database(parts: Parts) -> bool:
    try:
        with parts.database.reading() as session:
            return session.scalar(select(AuditHead.size)) is not None
    except SQLAlchemyError:
        return False


def _workers(parts: Parts) -> int:
    try:
        with parts.database.reading() as session:
            return workers.alive(session, within_seconds=4 * parts.settings.sweep_seconds)
    except SQLAlchemyError:
        return 0
