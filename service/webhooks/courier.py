"""Carries webhook events to their receivers: one thread for each endpoint that has something due, some at a time.

No transaction spans the sending: a delivery is claimed in one, sent, and its outcome recorded in another. Events of an
endpoint go one after the other, in order as long as none has to be tried again; a slow receiver takes up its own
thread alone, and that for a bounded time.
"""

import random
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import httpx
import structlog

from service import faults
from service.deps import Parts
from service.duties import Duty
from service.evidence.leaf import canonical
from service.faults import Step
from service.logs import trace
from service.store import audit, deliveries, fanning_out, putting_off
from service.store.deliveries import Claim
from service.store.types import now
from service.webhooks import connection, schedule, signatures
from service.webhooks.connection import NotAnswered
from service.webhooks.targets import Allowed, Guard, TargetRefused

EVERY_SECONDS = 2.0
PRUNE_EVERY = timedelta(hours=1)
# For so long at most deliveries that a wrong clock put off wait on once it is set right.
CLOCK_SECONDS = 60.0
# What looking up a name and recording the outcome may take beside the sending.
CLAIM_MARGIN_SECONDS = 20.0
# After so long an endpoint's thread lets others have its place; the next turn starts it again.
MOST_SECONDS_IN_A_ROW = 10.0
_WAIT_FOR_THREADS_SECONDS = 5.0
_USER_AGENT = f"unlearning-service/{version('unlearning-service')}"
_ASKS_FOR_TIME = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
log = structlog.get_logger()


class Courier:
    """Delivers what is due, turn by turn. Guard and TLS context default to the settings' and the system's."""

    def __init__(self, parts: Parts, *, guard: Guard | None = None, ssl_context: ssl.SSLContext | None = None) -> None:
        settings = parts.settings
        self._database, self._settings = parts.database, settings
        self._guard = guard or Guard(allowed=Allowed.parse(settings.webhook_allowed_hosts))
        self._ssl_context = ssl_context
        self._waits = settings.webhook_waits
        self._lock, self._busy, self._stopping = threading.Lock(), dict[str, threading.Thread](), parts.draining
        self._pruned_at: datetime | None = None
        self._clock_checked = -CLOCK_SECONDS

    @property
    def duty(self) -> Duty:
        return Duty(name="webhooks", every_seconds=EVERY_SECONDS, run=self.turn, rests=False)

    def turn(self, _: Parts) -> None:
        """Fan new events out and have what is due delivered, without waiting for any receiver."""
        self._set_right()
        waiting = self._waiting()
        if None in waiting:
            while not self._stopping.is_set() and self._fan_out():
                pass
            waiting = self._waiting()
        due = [endpoint_id for endpoint_id in waiting if endpoint_id is not None]
        random.shuffle(due)  # where there are more than threads, each comes to its turn
        for endpoint_id in due:
            self._serve(endpoint_id)
        self._prune()

    def stop(self) -> None:
        """Have the threads end after what they are at; what they leave is sent again later."""
        self._stopping.set()
        with self._lock:
            threads = list(self._busy.values())
        end = time.monotonic() + _WAIT_FOR_THREADS_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _waiting(self) -> list[str | None]:
        with self._database.looking_up() as connection:
            return list(connection.scalars(deliveries.WAITING, {"at": now()}))

    def _fan_out(self) -> bool:
        with self._database.writing() as session:
            return fanning_out.fan_out(session) > 0

    def _serve(self, endpoint_id: str) -> None:
        """Start a thread for the endpoint, unless it has one or there are enough; the next turn asks again."""
        with self._lock:
            enough = len(self._busy) >= self._settings.webhook_workers
            if endpoint_id in self._busy or enough or self._stopping.is_set():
                return
            thread = threading.Thread(target=self._deliver_due, args=(endpoint_id,), daemon=True, name="webhook")
            self._busy[endpoint_id] = thread
        thread.start()

    def _deliver_due(self, endpoint_id: str) -> None:
        try:
            end = time.monotonic() + MOST_SECONDS_IN_A_ROW
            while time.monotonic() < end and not self._stopping.is_set() and self._deliver_next(endpoint_id):
                pass
        except Exception as error:  # noqa: BLE001 - a thread's boundary: the claim runs out and it is sent again
            log.warning("webhook.failed", webhook=endpoint_id, trace=trace(error))
        finally:
            with self._lock:
                del self._busy[endpoint_id]

    def _deliver_next(self, endpoint_id: str) -> bool:
        """Send one delivery; say whether to go on with the next."""
        seconds = self._settings.webhook_timeout_seconds + CLAIM_MARGIN_SECONDS
        with self._database.writing() as session:
            claim = deliveries.claim(session, endpoint_id, seconds=seconds)
        if claim is None:
            return False
        try:
            faults.reach(Step.WEBHOOK_SENDING)
            answer = self._send(claim)
        except NotAnswered as failure:
            self._failed(claim, failure.code)
            return False
        except Exception as error:  # noqa: BLE001 - whatever breaks counts as an attempt, or it would be tried for ever
            log.warning("webhook.failed", webhook=endpoint_id, delivery=claim.id, trace=trace(error))
            self._failed(claim, "internal_error")
            return False
        faults.reach(Step.WEBHOOK_SENT)
        return self._record(claim, answer)

    def _send(self, claim: Claim) -> connection.Answer:
        """Raises NotAnswered."""
        try:
            target = self._guard.target(claim.url)
        except TargetRefused as refusal:
            raise NotAnswered(refusal.faults[0].code) from None
        body, headers = message(claim, self._settings.master_key_bytes, moment=now())
        if self._ssl_context is None:
            self._ssl_context = httpx.create_ssl_context()
        seconds = self._settings.webhook_timeout_seconds
        return connection.post(target, body, headers, seconds=seconds, ssl_context=self._ssl_context)

    def _record(self, claim: Claim, answer: connection.Answer) -> bool:
        status = answer.status
        if 200 <= status < 300:
            with self._database.writing() as session:
                deliveries.delivered(session, claim, status)
            return True
        if status == HTTPStatus.GONE:
            with self._database.writing() as session:
                deliveries.give_up_endpoint(session, claim, status=status, error="receiver_gone")
            return False
        asked = schedule.retry_after(answer.retry_after, now()) if status in _ASKS_FOR_TIME else None
        self._failed(claim, "redirect_refused" if 300 <= status < 400 else "status_refused", status=status, asked=asked)
        return False

    def _failed(self, claim: Claim, error: str, *, status: int | None = None, asked: float | None = None) -> None:
        wait = schedule.wait(self._waits, claim.attempt, asked=asked)
        with self._database.writing() as session:
            deliveries.failed(session, claim, error=error, status=status, wait=wait)
        log.info("webhook.not_delivered", webhook=claim.endpoint_id, delivery=claim.id, error=error, status=status)

    def _set_right(self) -> None:
        """Look now and then, by a clock that nobody sets, for deliveries that one which was ahead has put off."""
        if time.monotonic() - self._clock_checked < CLOCK_SECONDS:
            return
        claimed = timedelta(seconds=self._settings.webhook_timeout_seconds + CLAIM_MARGIN_SECONDS)
        longest = max(claimed, timedelta(seconds=schedule.longest(self._waits)))
        slack = timedelta(seconds=self._settings.max_clock_skew_seconds)
        moved = putting_off.set_right(self._database, slack=slack, longest=longest)
        if moved < putting_off.AT_ONCE:
            self._clock_checked = time.monotonic()
        if moved:
            log.warning("webhook.clock_set_right", deliveries=moved)

    def _prune(self) -> None:
        moment = now()
        # A moment that lies ahead was written by a clock that has been set back since.
        if self._pruned_at is not None and timedelta(0) <= moment - self._pruned_at < PRUNE_EVERY:
            return
        before = moment - timedelta(days=self._settings.webhook_retention_days)
        while self._prune_some(before) == deliveries.PRUNED_AT_ONCE:
            if self._stopping.is_set():
                return
        self._pruned_at = moment

    def _prune_some(self, before: datetime) -> int:
        with self._database.writing() as session:
            return deliveries.prune(session, before)


def message(claim: Claim, master_key: bytes, *, moment: datetime) -> tuple[bytes, Mapping[str, str]]:
    """Return body and headers of a delivery as it is sent at a moment. Raises NotAnswered if no secret can be read."""
    payload: dict[str, Any] = {"type": claim.type, "timestamp": audit.moment(claim.time), "data": claim.data}
    body = canonical(payload)
    try:
        secrets = [signatures.unseal(master_key, claim.endpoint_id, sealed) for sealed in claim.secrets]
    except signatures.SecretUnreadable:
        raise NotAnswered("secret_unreadable") from None
    signed = signatures.headers(secrets, message_id=claim.event_id, moment=moment, body=body)
    return body, {"Content-Type": "application/json", "User-Agent": _USER_AGENT, **signed}
