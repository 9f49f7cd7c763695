"""An attempt's checkpoints: found when it begins, stored as the child makes them, deleted when they are of no use.

The bytes lie in the artifact store, where another host finds them; the row that names them is written under the
fence. A checkpoint is of one order alone: of exactly those samples, weights, options and seed. The child adds what
only it knows (device, torch, code).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from service import faults, outages
from service.errors import ServiceError
from service.faults import Step
from service.store import digests, jobs, position_sets, preparations, training_checkpoints
from service.store.jobs import Claim, LeaseLost
from service.store.tables import Attempt, Job
from service.store.training_checkpoints import Binding, Useless
from service.store.types import now
from workers.bench import Bench
from workers.heartbeat import Heartbeat
from workers.ladder import is_exact

log = structlog.get_logger()
Order = Mapping[str, Any]

# Where things lie, and what is measured when the training is over: the training itself is the same without them.
_BESIDE = frozenset({"out", "weights", "references", "retrained", "earlier", "groups", "audit", "test"})


class TrainingSetMoved(Exception):
    """A sample went since the order was made: its training cannot be gone on with, nor may it be kept."""


def can_be_kept(order: Order) -> bool:
    """Say whether the order's work is a training that is kept as it goes."""
    return order["kind"] in ("train", "prepare") or (order["kind"] == "erase" and is_exact(order["method"]))


def order_digest(order: Order) -> str:
    """Return the SHA-256 of all that decides the order's training."""
    own = {key: value for key, value in order.items() if key not in _BESIDE}
    own["dataset"] = {key: order["dataset"][key] for key in ("source", "digest")}
    own["prepared"] = {name: file["sha256"] for name, file in order.get("prepared", {}).items()}
    if order["kind"] == "erase":
        own.pop("population", None)
    return hashlib.sha256(json.dumps(own, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def trained_on(order: Order) -> set[int]:
    """Return the places of the samples that the order's training reads."""
    if order["kind"] == "prepare":
        return {*order["pool"], *order["population"]}
    return {*order["train"]} - {order["train"][i] for i in order.get("forget_index", ())}


def looked_at(bench: Bench, claim: Claim) -> tuple[bytes, datetime]:
    """Return what samples can be read, and since when that is known; to be called before the order is made."""
    moment = now()
    with bench.database.reading() as session:
        return training_checkpoints.readable(session, session.get_one(Job, claim.job_id)), moment


class Resumption:
    """One attempt's checkpoints. ``order`` is the order with what the child needs to go on and to keep its work."""

    def __init__(
        self, bench: Bench, claim: Claim, order: dict[str, Any], *, seen: tuple[bytes, datetime], beat: Heartbeat
    ) -> None:
        self._bench, self._claim, self._beat, self._out = bench, claim, beat, Path(order.get("out", "."))
        self.order = order
        if can_be_kept(order):
            # What could be read when it was made may have come since one looked.
            positions = position_sets.with_more(seen[0], trained_on(order))
            self._binding = Binding(order_sha256=order_digest(order), positions=positions, ordered_at=seen[1])
            asked = {"order_sha256": self._binding.order_sha256, "seconds": bench.settings.checkpoint_seconds}
            self.order = {**order, "checkpoints": {**asked, "before": self._before()}}

    def told(self, message: dict[str, Any]) -> None:
        """Do what a message of the child asks for. What goes wrong is logged: the training goes on without it."""
        match message["type"]:
            case "checkpoint":
                self._keep(self._out / message["file"], message["epochs"])
                # The child writes no other before this one is gone.
                (self._out / message["file"]).unlink(missing_ok=True)
            case "checkpoint_not_written":
                log.warning("checkpoint.not_written", code=message["code"], epochs=message["epochs"])
                self._note_not_kept(message["code"])
            case "checkpoint_refused":
                log.warning("checkpoint.refused", detail=message["detail"])
                self.over(reason="refused")
            case "resumed":
                log.info("attempt.resumed", epochs=message["epochs"])
                with _going_on("attempt.resumed_not_noted"):
                    self._note_resumed(message["epochs"])

    def over(self, *, reason: str = "attempt_over") -> None:
        """Delete the job's checkpoint, if there is one."""
        with _going_on("checkpoint.not_deleted"):
            with self._bench.database.reading() as session:
                row = training_checkpoints.of_job(session, self._claim.job_id)
            if row is not None:
                _delete(self._bench, Useless(job_id=row.job_id, sha256=row.sha256, reason=reason))

    def _before(self) -> dict[str, str] | None:
        with self._bench.database.reading() as session:
            row = training_checkpoints.of_job(session, self._claim.job_id)
        if row is None:
            return None
        if row.order_sha256 != self._binding.order_sha256:
            self.over(reason="another_order")
            return None
        try:
            path = self._bench.artifacts.local_path(row.sha256)
            if path is None:
                path = self._out / "before.safetensors"
                self._bench.artifacts.fetch(row.sha256, path)
        except (ServiceError, OSError) as error:
            log.warning("checkpoint.unreadable", error=type(error).__name__)
            return None
        return {"path": str(path), "sha256": row.sha256}

    def _keep(self, file: Path, epochs: int) -> None:
        try:
            self._store(file, epochs)
        except (SQLAlchemyError, OSError, ServiceError) as error:
            lack = outages.lacking(error)
            code = error.code if isinstance(error, ServiceError) else lack.code if lack else "internal_error"
            log.warning("checkpoint.not_stored", error=type(error).__name__, code=code, epochs=epochs)
            self._note_not_kept(code)

    def _note_not_kept(self, code: str) -> None:
        with _going_on("checkpoint.not_kept_not_noted"):
            try:
                with self._bench.database.writing() as session:
                    training_checkpoints.note_not_kept(session, jobs.hold_lease(session, self._claim), code)
            except LeaseLost:
                self._beat.lost.set()

    def _store(self, file: Path, epochs: int) -> None:
        sha256, size = self._bench.artifacts.put(file), file.stat().st_size
        try:
            with self._bench.database.writing() as session:
                digests.hold(session, sha256)
                self._bench.artifacts.ensure(file, sha256)
                job = jobs.hold_lease(session, self._claim)
                if training_checkpoints.lost_any(session, job, self._binding.positions):
                    raise TrainingSetMoved
                before = training_checkpoints.record(
                    session, job, self._binding, sha256=sha256, size=size, epochs=epochs
                )
        except LeaseLost:
            self._beat.lost.set()
            _delete_bytes(self._bench, sha256)
            return
        except TrainingSetMoved:
            log.warning("checkpoint.training_set_changed")
            _delete_bytes(self._bench, sha256)
            return
        log.info("checkpoint.stored", epochs=epochs, size_bytes=size)
        faults.reach(Step.CHECKPOINT_STORED)
        if before not in (None, sha256):
            with _going_on("checkpoint.not_deleted"):
                _delete_bytes(self._bench, str(before))

    def _note_resumed(self, epochs: int) -> None:
        claim = self._claim
        try:
            with self._bench.database.writing() as session:
                job = jobs.hold_lease(session, claim)
                of_attempt = (Attempt.job_id == claim.job_id, Attempt.fence == claim.fence)
                session.execute(update(Attempt).where(*of_attempt).values(resumed_from=epochs))
                jobs.note(session, job, "job.resumed", {"epochs": epochs, "fence": claim.fence})
        except LeaseLost:
            self._beat.lost.set()


def clear(bench: Bench) -> None:
    """Delete the checkpoints of jobs that are over and of training sets that changed."""
    with _going_on("checkpoint.not_deleted"):
        with bench.database.reading() as session:
            found = training_checkpoints.useless(session)
        for each in found:
            _delete(bench, each)


def _delete(bench: Bench, useless: Useless) -> None:
    with bench.database.writing() as session:
        digests.hold(session, useless.sha256)
        row = training_checkpoints.of_job(session, useless.job_id)
        if row is None or row.sha256 != useless.sha256:
            return
        session.delete(row)
        session.flush()
        # Bytes first: a crash in between leaves a row without bytes, which the next sweep looks at again.
        if not bench.artifacts.purge(useless.sha256):
            raise OSError("the artifact store still has the checkpoint")
        told = {"sha256": useless.sha256, "reason": useless.reason, "bytes_absent": True}
        jobs.note(session, session.get_one(Job, useless.job_id), "job.checkpoint_deleted", told)
    log.info("checkpoint.deleted", job_id=useless.job_id, reason=useless.reason)


def _delete_bytes(bench: Bench, sha256: str) -> None:
    """Delete bytes that no row names; after a crash before this they are orphans, which a sweep deletes."""
    with bench.database.writing() as session:
        digests.hold(session, sha256)
        if not preparations.in_use(session, sha256):
            bench.artifacts.purge(sha256)


@contextmanager
def _going_on(event: str) -> Iterator[None]:
    """Log what the database or the artifact store refuses: a checkpoint saves time and decides nothing."""
    try:
        yield
    except (SQLAlchemyError, OSError, ServiceError) as error:
        log.warning(event, error=type(error).__name__)
