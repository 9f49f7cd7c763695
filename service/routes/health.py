"""/healthz and /readyz: the only routes without a key; they tell nothing about data."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from service import restore_gate
from service.deps import Parts, PartsDep
from service.store import replays, schema, workers
from service.store.tables import AuditHead

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="healthz")
def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", operation_id="readyz", responses={503: {"description": "Not ready.", "model": dict[str, Any]}})
def readyz(response: Response, parts: PartsDep) -> dict[str, Any]:
    """Say whether requests can be taken in: database migrated and reachable, artifacts writable, no end in sight.

    The artifact store has to be the one that belongs to the database.

    Workers are told of, idle, busy, deaf or gone, but do not count: requests are taken in without them.
    """
    if parts.draining.is_set():
        response.status_code = 503
        return {"status": "draining", "detail": "This process was asked to end; send requests to another."}
    unfit, wrong = _unfit(parts), parts.artifacts.why_wrong()
    checks = {
        "database": _database(parts),
        "schema": unfit is None,
        "artifacts": parts.artifacts.writable(),
        "own_artifacts": wrong is None,
    }
    if checks["database"] and _replay_is_due(parts):
        checks["restore_replayed"] = False
    ready = all(checks.values())
    if not ready:
        response.status_code = 503
    states = _workers(parts)
    alive = sum(count for state, count in states.items() if state != workers.WorkerState.GONE)
    return {
        "status": "ready" if ready else "not ready",
        **({"code": restore_gate.CODE} if "restore_replayed" in checks else {}),
        "checks": checks,
        "workers": alive,
        "worker_states": states,
        **({"detail": unfit or wrong} if unfit or wrong else {}),
    }


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


def _replay_is_due(parts: Parts) -> bool:
    try:
        with parts.database.reading() as session:
            return replays.pending(session) is not None
    except SQLAlchemyError:
        return False


def _workers(parts: Parts) -> dict[str, int]:
    try:
        with parts.database.reading() as session:
            return workers.count_states(workers.states(session, sweep_seconds=parts.settings.sweep_seconds))
    except SQLAlchemyError:
        return workers.count_states([])
