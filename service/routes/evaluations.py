"""/v1/evaluations: the stored report of an attempt."""

from typing import Any

from fastapi import APIRouter

from service.deps import PartsDep, needs
from service.errors import NotFound
from service.store.tables import Evaluation

router = APIRouter(prefix="/v1/evaluations", tags=["evaluations"])


@router.get("/{evaluation_id}", operation_id="get_evaluation", dependencies=[needs("requests:read")])
def get(evaluation_id: str, parts: PartsDep) -> dict[str, Any]:
    """Return what was measured, with intervals, basis, and what it does not prove."""
    with parts.database.reading() as session:
        row = session.get(Evaluation, evaluation_id)
        if row is None:
            raise NotFound("There is no such evaluation.", code="evaluation_not_found")
        return {"id": row.id, "job_id": row.job_id, "created_at": row.created_at, **row.report}
