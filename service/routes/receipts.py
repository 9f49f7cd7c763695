"""/v1/deletion-requests/{id}/receipt: that an id was covered, shown for that id alone; ids stand in bodies only."""

from typing import Annotated

from fastapi import APIRouter

from service.auth import Principal
from service.deps import PartsDep, needs, writing_as
from service.errors import Fault, InvalidRequest
from service.evidence.receipts import ReceiptRefused, check
from service.schemas.deletion_requests import repeated
from service.schemas.receipts import MAX_RECEIPTS, ReceiptCheckIn, ReceiptCheckOut, ReceiptIn, ReceiptItem, ReceiptOut
from service.store import id_checks, receipts, requests

router = APIRouter(prefix="/v1/deletion-requests/{request_id}/receipt", tags=["deletion requests"])


@router.post("", operation_id="create_receipts")
def give(
    request_id: str, body: ReceiptIn, parts: PartsDep, who: Annotated[Principal, needs("requests:read")]
) -> ReceiptOut:
    """Give a receipt for each of the ids that the request covers."""
    _refuse_faulty(body.sample_ids)
    with writing_as(parts, who) as session:
        request = requests.get(session, request_id)
        id_checks.charge(session, who.id, len(body.sample_ids), per_day=parts.settings.id_checks_per_day)
        found = receipts.give(session, request.id, body.sample_ids, wrapping_key=parts.secrets.wrapping)
    items = [
        ReceiptItem(sample_id=sample_id, covered=receipt is not None, receipt=receipt)
        for sample_id, receipt in zip(body.sample_ids, found, strict=True)
    ]
    return ReceiptOut(request_id=request.id, status=request.status, items=items)


@router.post("/check", operation_id="check_receipt", dependencies=[needs("requests:read")])
def check_one(request_id: str, body: ReceiptCheckIn, parts: PartsDep) -> ReceiptCheckOut:
    """Check that a receipt is one of this request, also when the request's key is shredded."""
    with parts.database.reading() as session:
        request = requests.get(session, request_id)
        notes = receipts.notes_of(session, request)
    try:
        check(body.receipt, request_id=request.id, commitment_root=request.commitment_root)
    except ReceiptRefused as error:
        raise InvalidRequest(str(error), code=error.code, faults=[Fault("/receipt", error.code)]) from None
    faults = [
        Fault(f"/receipt/{name}", "receipt_altered", body.receipt[name], f"It is {right!r}.")
        for name, right in notes.items()
        if body.receipt[name] != right
    ]
    if faults:
        raise InvalidRequest("The receipt says of its request what is not so.", code="receipt_altered", faults=faults)
    return ReceiptCheckOut(request_id=request.id, valid=True, status=request.status)


def _refuse_faulty(sample_ids: list[str]) -> None:
    faults = [Fault("/sample_ids", "duplicate_sample_id", sample_id) for sample_id in repeated(sample_ids)]
    if len(sample_ids) > MAX_RECEIPTS:
        detail = f"At most {MAX_RECEIPTS} at a time."
        faults.append(Fault("/sample_ids", "too_many_sample_ids", len(sample_ids), detail))
    if faults:
        raise InvalidRequest("The receipts cannot be given; every fault is listed.", faults=faults)
