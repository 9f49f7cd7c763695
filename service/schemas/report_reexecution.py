"""What a report says of doing the unlearning a second time: the draw, with all it takes to draw again, and its end."""

from typing import Literal

from pydantic import BaseModel, Field

SHA256 = r"^[0-9a-f]{64}$"


class CommittedOut(BaseModel):
    """The log's first entry that commits the job to a result."""

    seq: int = Field(ge=0, description="Of the entry `job.result_committed`.")
    sha256: str = Field(pattern=SHA256, description="Of the weights that it names.")


class DrawnFromOut(BaseModel):
    """The signed checkpoint of the log up to and with that entry."""

    size: int = Field(ge=1)
    note: str = Field(description="C2SP signed note, with the log's own signature alone.")


class ReexecutionOut(BaseModel):
    """Whether the unlearning was done a second time from the parent's weights, why, and what came of it."""

    chosen: bool
    because: Literal["draw", "another_result_was_committed_before"] = Field(
        description="An attempt that comes to other weights than those first committed to is always done again."
    )
    share: float = Field(ge=0, le=1, description="Of the policy, as frozen with the request.")
    draw: str = Field(
        pattern=SHA256,
        description="SHA-256(note, then job id). As a fraction of 2^256 below `share`: it is done again.",
    )
    sha256: str = Field(pattern=SHA256, description="Of this attempt's weights.")
    committed: CommittedOut
    checkpoint: DrawnFromOut
    earlier_divergences: int = Field(ge=0, description="Times that doing this job again gave other weights or failed.")
    equal: bool | None = Field(None, description="Null where it was not done again.")
    reexecuted_sha256: str | None = Field(None, pattern=SHA256)
    bit_for_bit: bool | None = Field(None, description="Both files have one digest; on the CPU nothing less is equal.")
    device: Literal["cpu", "cuda"] | None = None
    tolerance: float | None = Field(None, ge=0, description="What may pass as equal on CUDA; 0 on the CPU.")
    max_relative_difference: float | None = Field(
        None, ge=0, description="Largest difference of any value, as a share of the largest value of its tensor."
    )
    seconds: float | None = Field(None, ge=0, description="What it cost.")
