"""Bodies of receipts and of the suppression check."""

from typing import Any

from pydantic import BaseModel, Field

from service.schemas.common import Body
from service.schemas.deletion_requests import SampleId

MAX_RECEIPTS, MAX_CHECKED = 1_000, 10_000


class ReceiptIn(Body):
    sample_ids: list[SampleId] = Field(description="The ids to give receipts for; each once.", min_length=1)


class ReceiptItem(BaseModel):
    sample_id: str
    covered: bool
    receipt: dict[str, Any] | None = Field(description="To hand to the person: it speaks of this id alone.")


class ReceiptOut(BaseModel):
    request_id: str
    status: str = Field(description="Covered ids are erased once the request is `completed`.")
    items: list[ReceiptItem]


class ReceiptCheckIn(Body):
    receipt: dict[str, Any]


class ReceiptCheckOut(BaseModel):
    request_id: str
    valid: bool
    status: str


class SuppressionCheckIn(Body):
    sample_ids: list[SampleId] = Field(description="The ids to look up; one may come twice.", min_length=1)


class SuppressionCheckOut(BaseModel):
    dataset: str
    suppressed: list[bool] = Field(description="One for each id, in the order asked: was it erased from this dataset?")
