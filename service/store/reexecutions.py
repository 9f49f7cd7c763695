"""What the log says of erasures done twice: which result a job was committed to, the draw, and how it ended.

The log is the only memory. A job's first commitment decides the draw for good: whoever ends a worker and lets it
begin again meets the same draw, and a result other than the one committed first is done twice whatever was drawn.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.evidence.reexecution import drawn, is_chosen
from service.store import audit, jobs
from service.store.jobs import Claim

COMMITTED, DRAWN = "job.result_committed", "job.reexecution_drawn"
REEXECUTED, DIVERGED = "job.reexecuted", "job.reexecution_diverged"
MAX_ENTRIES = 1000

Sign = Callable[[Session, int], str]
"""Returns the signed note of the log's first so many entries."""


@dataclass(frozen=True, kw_only=True)
class Committed:
    """What a job came to, by digests: of the weights, of those it started from, and of the method's parameters."""

    sha256: str
    parent_sha256: str
    method: str
    parameters_sha256: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A job's one draw. ``seq`` and ``sha256`` are of its first commitment; ``divergences`` came before."""

    seq: int
    sha256: str
    note: str
    share: float
    chosen: bool
    divergences: int


def commit(session: Session, claim: Claim, result: Committed) -> None:
    """Log the digest of the claimed job's result, once for each that differs. Raises LeaseLost."""
    job = jobs.hold_lease(session, claim)
    earlier = [payload["sha256"] for _, payload in _entries(session, job.id, COMMITTED)]
    if result.sha256 not in earlier:
        instead = {"instead_of": earlier[0]} if earlier else {}
        jobs.note(session, job, COMMITTED, {**asdict(result), **instead})


def draw(session: Session, claim: Claim, *, share: float, sign: Sign) -> Draw:
    """Return the job's draw, and log it the first time. Raises LeaseLost, LookupError before any commitment."""
    job = jobs.hold_lease(session, claim)
    committed = _entries(session, job.id, COMMITTED)
    if not committed:
        raise LookupError(f"{job.id} is not committed to a result")
    seq, first = committed[0]
    logged = _entries(session, job.id, DRAWN)
    payload = logged[0][1] if logged else _drawn(sign(session, seq + 1), job.id, share)
    if not logged:
        jobs.note(session, job, DRAWN, {**payload, "committed_seq": seq})
    return Draw(
        seq=seq,
        sha256=first["sha256"],
        note=payload["note"],
        share=payload["share"],
        chosen=payload["chosen"],
        divergences=len(_entries(session, job.id, DIVERGED)),
    )


def _drawn(note: str, job_id: str, share: float) -> dict[str, Any]:
    return {
        "note": note,
        "draw": drawn(note, job_id).hex(),
        "share": share,
        "chosen": is_chosen(note, job_id, share=share),
    }


def ended(session: Session, claim: Claim, *, equal: bool, account: Mapping[str, Any]) -> None:
    """Log how the second execution ended. Raises LeaseLost."""
    jobs.note(session, jobs.hold_lease(session, claim), REEXECUTED if equal else DIVERGED, dict(account))


def _entries(session: Session, job_id: str, action: str) -> list[tuple[int, dict[str, Any]]]:
    found = audit.find(session, actions=(action,), links={"job": job_id}, limit=MAX_ENTRIES)
    return [(entry.seq, json.loads(entry.payload)) for entry in found]
