"""Plays one cell: a request is driven until a process is held at the step, a process is hit, and all goes on."""

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from service.store.tables import Attempt, Job
from service.store.types import now
from tests.crash.cells import Cell, Place
from tests.crash.laws import Before, check
from tests.crash.stacks import END_SECONDS, LEASE_SECONDS, CrashStack, hit

FORGET = 3
ERASURE: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 1, "seed": 3}}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``restart_leases``: from the hit, and from the end of the lost lease, to the next attempt, in lease lengths."""

    attempts: int
    seconds: float
    from_hit_leases: float | None = None
    from_lease_leases: float | None = None


@dataclass(eq=False)
class Caller(threading.Thread):
    """A client that sends its request until it has an answer, always with the same Idempotency-Key."""

    crash: CrashStack
    sample_ids: list[str]
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    answers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        self.answers.append(self._until_answered())

    def _until_answered(self) -> str:
        end, refusal = time.monotonic() + END_SECONDS, ""
        while time.monotonic() < end:
            try:
                return self._send()
            except httpx.HTTPError as error:
                refusal = error.response.text if isinstance(error, httpx.HTTPStatusError) else repr(error)
                time.sleep(0.1)
        raise TimeoutError(f"the client never got an answer: {refusal}")

    def _send(self) -> str:
        stack = self.crash.stack
        headers = {"Authorization": stack.client.headers["Authorization"], "Idempotency-Key": self.key}
        body = {"dataset": "digits", "sample_ids": self.sample_ids, **ERASURE}
        answer = httpx.post(f"{stack.base_url}/v1/deletion-requests", json=body, headers=headers, timeout=30)
        return str(answer.raise_for_status().json()["id"])

    def answer(self) -> str:
        """Return the request's id, and ask once more: the same key gives the same request."""
        self.join(END_SECONDS)
        assert self.answers, "the client never got an answer"
        again = self._until_answered()
        assert again == self.answers[0], f"one key gave two requests: {self.answers[0]} and {again}"
        return again


def play(crash: CrashStack, cell: Cell) -> Outcome:
    """Play the cell and check the laws. Raises AssertionError, TimeoutError."""
    crash.ready(cell)
    before, started = Before.of(crash), time.monotonic()
    caller = Caller(crash, crash.sample_ids(FORGET))
    with _armed(crash, cell) as held:
        caller.start()
        target = crash.target(cell, crash.until(held))
        # Before the hit: a stopped process is told to go on only after its lease may have gone to another.
        lease_until, moment = _lease_until(crash), now()
        hit(target, cell.signal)
        (crash.faults / f"{cell.step}.go").touch()
        if cell.signal != "STOP":
            crash.ended(target)
        crash.heal()
        request_id = caller.answer()
        job = check(crash, cell, request_id, before)
    return _outcome(crash, job, moment, lease_until, seconds=time.monotonic() - started)


@contextmanager
def _armed(crash: CrashStack, cell: Cell) -> Iterator[Any]:
    """Yield what returns the id of the process that is held at the step, once one is."""
    step = crash.faults / cell.step
    step.write_text(json.dumps({"do": "hold"}))
    try:
        yield lambda: next((int(path.name.rsplit("-", 1)[1]) for path in _held(crash, cell)), None)
    finally:
        (crash.faults / f"{cell.step}.go").touch()
        time.sleep(0.1)  # whoever is still held there goes on
        for path in crash.faults.iterdir():
            path.unlink()


def _held(crash: CrashStack, cell: Cell) -> list[Path]:
    return list(crash.faults.glob(f"{cell.step}.at-*"))


def _lease_until(crash: CrashStack) -> datetime | None:
    with crash.database.reading() as session:
        return session.scalar(select(Job.lease_until).where(Job.lease_until.is_not(None)))


def _outcome(crash: CrashStack, job: Job, moment: datetime, lease_until: datetime | None, *, seconds: float) -> Outcome:
    with crash.database.reading() as session:
        found = session.scalars(select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.fence)).all()
    expired = [each for each in found if (each.error or {}).get("detail") == "lease_expired"]
    if not expired or lease_until is None or len(found) < 2 or crash.place == Place.EMBEDDED:
        return Outcome(attempts=job.attempts, seconds=seconds)
    restarted = found[1].started_at
    return Outcome(
        attempts=job.attempts,
        seconds=seconds,
        from_hit_leases=(restarted - moment).total_seconds() / LEASE_SECONDS,
        from_lease_leases=(restarted - lease_until).total_seconds() / LEASE_SECONDS,
    )
