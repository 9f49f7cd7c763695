"""Does a share of the erasures a second time before their result leaves the worker, and compares the weights.

The draw comes after the job was committed to its result, from a signed checkpoint of the log. What differs is not
published: a person decides.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from service import outages
from service.artifacts import file_digest
from service.errors import Unavailable
from service.evidence.notes import Checkpoint, sign_note
from service.evidence.reexecution import drawn, parameters_digest
from service.settings import Settings
from service.store import audit_tree, checkpoints, reexecutions, signing_keys
from service.store.jobs import Claim
from service.store.reexecutions import Committed, Draw
from service.store.tables import Job
from workers.bench import Bench
from workers.erasure_situation import held_to
from workers.order_parts import Prepared
from workers.runner import ChildFailed

FIRST_FILE, AGAIN_FILE = "weights.safetensors", "reexecuted.safetensors"
CUDA_TOLERANCE = 1e-4
"""Largest relative difference of a tensor that counts as equal on CUDA, where kernels may add in another order."""

Run = Callable[[dict[str, Any]], dict[str, Any]]
"""Has the child do an order. Raises ChildFailed, ChildLost."""


class Unconfirmed(Exception):
    """Doing it again gave other weights or failed, or no checkpoint could be signed; ``error`` has code and detail."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.error = {"code": code, "detail": detail}


def accounted(
    bench: Bench, claim: Claim, prepared: Prepared, result: dict[str, Any], folder: Path, *, run: Run
) -> dict[str, Any]:
    """Commit the job to its result, draw, and do it again if drawn; return the result with the account in its report.

    Raises Unconfirmed, LeaseLost, ChildLost, and ChildFailed for what a full or missing storage kept from being done.
    """
    report, order = result["report"], prepared.order or {}
    committed = Committed(
        sha256=file_digest(folder / FIRST_FILE),
        parent_sha256=order["sha256"],
        method=report["method"],
        parameters_sha256=parameters_digest(report["config"], seed=report["seed"]),
        seed=report["seed"],
    )
    try:
        draw = _committed_and_drawn(bench, claim, committed)
    except Unavailable as error:
        raise Unconfirmed(error.code, error.detail) from error
    told = _of_draw(draw, claim.job_id, committed.sha256)
    if told["chosen"]:
        again = {**order, "kind": "reexecute", "split": _split_of(report)}
        told |= _again(bench, claim, again, folder, run=run, sha256=committed.sha256)
    seconds = {**report["seconds"], "reexecution": told.get("seconds")}
    return {**result, "report": {**report, "seconds": seconds, "reexecution": told}}


def _split_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return what the first run split its batches into: in other parts, sums are rounded otherwise."""
    return {"micro_batch": (report.get("accumulation") or {}).get("micro_batch_size")}


def _committed_and_drawn(bench: Bench, claim: Claim, result: Committed) -> Draw:
    with bench.database.writing() as session:
        # The log's first key is logged before anything that it signs.
        signing_keys.current(session, bench.settings)
        reexecutions.commit(session, claim, result)
    with bench.database.writing() as session:
        # Policies frozen before there was a share have none.
        share = held_to(session, session.get_one(Job, claim.job_id)).get("reexecution_share", 0.0)
        return reexecutions.draw(session, claim, share=share, sign=partial(_note_at, bench.settings))


def _note_at(settings: Settings, session: Session, size: int) -> str:
    """Return the signed checkpoint of the first entries, of a log that is known to extend what was signed."""
    newest = checkpoints.sign_now(session, settings)
    if newest.size == size:
        return newest.note
    signer = signing_keys.current(session, settings)
    root = audit_tree.root(session, size)
    return sign_note(Checkpoint(origin=signer.name, size=size, root=root).text, signer)


def _of_draw(draw: Draw, job_id: str, sha256: str) -> dict[str, Any]:
    other = sha256 != draw.sha256
    return {
        "chosen": draw.chosen or other,
        "because": "another_result_was_committed_before" if other else "draw",
        "share": draw.share,
        "draw": drawn(draw.note, job_id).hex(),
        "sha256": sha256,
        "committed": {"seq": draw.seq, "sha256": draw.sha256},
        "checkpoint": {"size": draw.seq + 1, "note": draw.note},
        "earlier_divergences": draw.divergences,
    }


def _again(bench: Bench, claim: Claim, order: dict[str, Any], folder: Path, *, run: Run, sha256: str) -> dict[str, Any]:
    try:
        found = run(order)
    except ChildFailed as error:
        if error.error.get("code") in outages.PASSING:
            raise  # says nothing of the weights, and the draw is logged: it waits as the first run would
        told = {"sha256": sha256, "code": error.error.get("code")}
        _log(bench, claim, equal=False, told=told)
        detail = f"Done a second time, the work failed ({error.error.get('code')}: {error}). Retry the job."
        raise Unconfirmed("reexecution_failed", detail) from error
    again = file_digest(folder / AGAIN_FILE)
    tolerance = 0.0 if found["device"] == "cpu" else CUDA_TOLERANCE
    apart = found["max_relative_difference"]
    equal = again == sha256 or (apart is not None and 0.0 < tolerance >= apart)
    told = {
        "equal": equal,
        "reexecuted_sha256": again,
        "bit_for_bit": again == sha256,
        "device": found["device"],
        "tolerance": tolerance,
        "max_relative_difference": apart,
        "seconds": found["seconds"],
    }
    _log(bench, claim, equal=equal, told={"sha256": sha256, **told})
    if not equal:
        raise Unconfirmed("reexecution_diverged", _detail(sha256, again, apart))
    return told


def _log(bench: Bench, claim: Claim, *, equal: bool, told: dict[str, Any]) -> None:
    with bench.database.writing() as session:
        reexecutions.ended(session, claim, equal=equal, account=told)


def _detail(sha256: str, again: str, apart: float | None) -> str:
    by = "what cannot be compared" if apart is None else f"up to {apart:.3g} of a tensor's largest value"
    return (
        f"Done a second time from the same weights, data and seed, the work gave other weights ({again} instead of "
        f"{sha256}, apart by {by}). They are not published. Find out why before the job is retried."
    )
