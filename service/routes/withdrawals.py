"""/v1/withdrawals: who was told to give a version up, and who says that they did."""

from typing import Annotated

from fastapi import APIRouter, Depends

from service.auth import Principal
from service.deps import PartsDep, needs, principal, writing_as
from service.errors import Forbidden
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.retirement import WithdrawalOut
from service.store import withdrawals
from service.store.withdrawals import Told

router = APIRouter(prefix="/v1/withdrawals", tags=["withdrawals"])


def view(told: Told) -> WithdrawalOut:
    row = told.withdrawal
    return WithdrawalOut(
        id=row.id,
        model=told.model,
        version=told.version,
        sha256=told.sha256,
        recipient=row.principal_id,
        reason=row.reason,
        told_at=row.told_at,
        acknowledged_at=row.acknowledged_at,
        lifted_at=row.lifted_at,
    )


@router.get("", operation_id="list_withdrawals")
def list_all(
    parts: PartsDep, who: Annotated[Principal, Depends(principal)], limit: Limit = 100, cursor: str | None = None
) -> Page[WithdrawalOut]:
    """Return withdrawals, newest first: all of them to an auditor, to others those of their own key."""
    if not who.may("audit:read"):
        who.require("weights:read")
    of = None if who.may("audit:read") else who.id
    with parts.database.reading() as session:
        found = withdrawals.page(session, of=of, before=decode_cursor(cursor), limit=limit)
    last = found[-1].withdrawal.id if len(found) == limit else None
    return Page(items=[view(each) for each in found], next_cursor=encode_cursor(last) if last else None)


@router.post("/{withdrawal_id}/acknowledge", operation_id="acknowledge_withdrawal")
def acknowledge(withdrawal_id: str, parts: PartsDep, who: Annotated[Principal, needs("weights:read")]) -> WithdrawalOut:
    """Say that the version is given up: no copy of it is used or kept. Only the recipient's own key can."""
    with writing_as(parts, who) as session:
        found = withdrawals.get(session, withdrawal_id)
        if found.withdrawal.principal_id != who.id:
            if who.may("audit:read"):
                raise Forbidden("Only the key that fetched the version can say that it was given up.")
            raise withdrawals.not_found()
        withdrawals.acknowledge(session, found)
        return view(found)
