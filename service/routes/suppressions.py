"""/v1/datasets/{name}/suppressions/check: was this id erased? For pipelines that must not take it in again."""

from typing import Annotated

from fastapi import APIRouter

from service.auth import Principal
from service.deps import PartsDep, needs, writing_as
from service.errors import Fault, InvalidRequest
from service.schemas.receipts import MAX_CHECKED, SuppressionCheckIn, SuppressionCheckOut
from service.store import audit, datasets, id_checks, samples

router = APIRouter(prefix="/v1/datasets/{name}/suppressions", tags=["datasets"])


@router.post("/check", operation_id="check_suppressions")
def check(
    name: str, body: SuppressionCheckIn, parts: PartsDep, who: Annotated[Principal, needs("suppressions:read")]
) -> SuppressionCheckOut:
    """Say of each id whether it was erased from the dataset; an unknown id looks like one that is still there."""
    if len(body.sample_ids) > MAX_CHECKED:
        fault = Fault("/sample_ids", "too_many_sample_ids", len(body.sample_ids), f"At most {MAX_CHECKED} at a time.")
        raise InvalidRequest("Too many ids at a time.", faults=[fault])
    with writing_as(parts, who) as session:
        dataset = datasets.by_name(session, name)
        id_checks.charge(session, who.id, len(body.sample_ids), per_day=parts.settings.id_checks_per_day)
        found = samples.suppressed(session, parts.secrets.suppression, dataset.id, body.sample_ids)
        # Not how many were found: the log is read by others than may ask.
        audit.record(
            session,
            "suppressions.checked",
            subject=f"dataset/{dataset.name}",
            payload={"count": len(body.sample_ids)},
            links={"dataset": dataset.name},
        )
    return SuppressionCheckOut(dataset=dataset.name, suppressed=[sample_id in found for sample_id in body.sample_ids])
