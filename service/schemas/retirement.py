"""What is told of artefacts that held erased samples."""

from datetime import datetime

from pydantic import BaseModel


class StepOut(BaseModel):
    """`seq` is that of the audit entry which says so."""

    state: str
    at: datetime
    action: str
    seq: int | None


class ResidualOut(BaseModel):
    """`waiting`: something is still to be done about it."""

    kind: str
    artifact: str
    sha256: str | None
    state: str
    waiting: bool
    steps: list[StepOut]


class ResidualsOut(BaseModel):
    """`waiting` counts the artefacts of which that is true."""

    request: str
    waiting: int
    items: list[ResidualOut]


class DownloadOut(BaseModel):
    """Bytes of a version that were sent. `range` is null where all were; `key` is the id of the API key."""

    seq: int
    time: str
    key: str
    sha256: str
    range: str | None


class WithdrawalOut(BaseModel):
    """That a recipient was told to give a version up. `lifted_at`: it serves again, so nobody need."""

    id: str
    model: str
    version: int
    sha256: str
    recipient: str
    reason: str
    told_at: datetime
    acknowledged_at: datetime | None
    lifted_at: datetime | None
