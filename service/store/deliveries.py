"""Deliveries of webhook events: claimed, sent outside of any transaction, and their outcome recorded; replay, pruning.

A claim moves the delivery's next moment past the time a sending can take, so that one whose process ended is sent
again, and counts up ``claims``, so that an outcome which comes late changes nothing. A receiver may hear of an event
more than once and knows it again by the event's id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    CursorResult,
    Select,
    String,
    Update,
    bindparam,
    delete,
    exists,
    literal,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.store import audit, fanning_out, webhooks
from service.store.fanning_out import DEAD, DELIVERED, PENDING
from service.store.tables import ApiKey, WebhookDelivery, WebhookEndpoint, WebhookEvent
from service.store.types import UtcDateTime, new_id, now

STATES = (PENDING, DELIVERED, DEAD)
MOST_REPLAYED = 10_000
PRUNED_AT_ONCE = 1000
Row = tuple[WebhookDelivery, str]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A delivery to send now. ``attempt`` counts from 1; ``secrets`` are sealed; ``number`` names this very claim."""

    id: str
    number: int
    attempt: int
    endpoint_id: str
    event_id: str
    type: str
    time: datetime
    data: dict[str, Any]
    url: str
    secrets: Sequence[bytes]


_AT = bindparam("at", type_=UtcDateTime())
_DUE = exists().where(WebhookDelivery.endpoint_id == WebhookEndpoint.id, WebhookDelivery.next_at <= _AT)
WAITING = union_all(
    select(literal(None, String())).where(exists().where(~WebhookEvent.fanned_out)),
    select(WebhookEndpoint.id)
    .join(ApiKey, ApiKey.id == WebhookEndpoint.key_id)
    .where(WebhookEndpoint.enabled, fanning_out.key_is_valid(_AT), _DUE),
)
"""What there is to do ``at`` a moment: endpoints with something due, and None for events not fanned out.

It reads two partial indexes, which are empty when there is nothing to do; made once, since it is asked all the time.
"""


def claim(session: Session, endpoint_id: str, *, seconds: float) -> Claim | None:
    """Take the delivery that is due longest for so many seconds, or return None."""
    row = session.execute(
        select(WebhookDelivery, WebhookEvent, WebhookEndpoint)
        .join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .join(ApiKey, ApiKey.id == WebhookEndpoint.key_id)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.next_at <= now())
        .where(WebhookEndpoint.enabled, fanning_out.key_is_valid())
        .order_by(WebhookDelivery.next_at, WebhookDelivery.id)
        .limit(1)
        .with_for_update(of=WebhookDelivery, skip_locked=True)
    ).one_or_none()
    if row is None:
        return None
    delivery, event, endpoint = row
    delivery.claims += 1
    delivery.attempts += 1
    delivery.attempted_at = now()
    delivery.next_at = now() + timedelta(seconds=seconds)
    return Claim(
        id=delivery.id,
        number=delivery.claims,
        attempt=delivery.attempts,
        endpoint_id=endpoint_id,
        event_id=event.id,
        type=event.type,
        time=event.time,
        data=event.data,
        url=endpoint.url,
        secrets=webhooks.signing(endpoint),
    )


def _outcome(claim: Claim, **values: Any) -> Update:
    mine = (WebhookDelivery.id == claim.id, WebhookDelivery.claims == claim.number, WebhookDelivery.state == PENDING)
    return update(WebhookDelivery).where(*mine).values(**values).execution_options(synchronize_session=False)


def delivered(session: Session, claim: Claim, status: int) -> None:
    """Record that the receiver took it."""
    values = {"state": DELIVERED, "last_status": status, "last_error": None, "next_at": None, "finished_at": now()}
    session.execute(_outcome(claim, **values))


def failed(session: Session, claim: Claim, *, error: str, status: int | None, wait: float | None) -> None:
    """Record an attempt that failed; without a ``wait`` (seconds) it was the last and the delivery is dead."""
    values: dict[str, Any] = {"last_status": status, "last_error": error}
    if wait is not None:
        session.execute(_outcome(claim, next_at=now() + timedelta(seconds=wait), **values))
        return
    done = session.execute(_outcome(claim, state=DEAD, next_at=None, finished_at=now(), **values))
    if isinstance(done, CursorResult) and done.rowcount:
        told = {"delivery": claim.id, "event": claim.event_id, "type": claim.type, "attempts": claim.attempt}
        endpoint = session.get_one(WebhookEndpoint, claim.endpoint_id)
        webhooks.record(session, endpoint, "webhook.dead_lettered", {**told, "error": error, "status": status})


def give_up_endpoint(session: Session, claim: Claim, *, status: int, error: str) -> None:
    """Record that the receiver wants no more: the delivery is dead and its endpoint disabled."""
    endpoint = session.get(WebhookEndpoint, claim.endpoint_id, with_for_update=True)
    if endpoint is not None:
        failed(session, claim, error=error, status=status, wait=None)
        webhooks.disable(session, endpoint, reason=error)


def page(session: Session, endpoint_id: str, *, before: str | None, limit: int, state: str | None = None) -> list[Row]:
    """Return deliveries of an endpoint with the type of each event, newest first."""
    query = _with_type().where(WebhookDelivery.endpoint_id == endpoint_id)
    if state:
        query = query.where(WebhookDelivery.state == state)
    if before:
        query = query.where(WebhookDelivery.id < before)
    rows = session.execute(query.order_by(WebhookDelivery.id.desc()).limit(limit))
    return [(row[0], row[1]) for row in rows]


def _with_type() -> Select[WebhookDelivery, str]:
    return select(WebhookDelivery, WebhookEvent.type).join(WebhookEvent, WebhookEvent.id == WebhookDelivery.event_id)


def get(session: Session, endpoint_id: str, delivery_id: str) -> Row:
    """Return a delivery with the type of its event. Raises NotFound."""
    mine = (WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id)
    row = session.execute(_with_type().where(*mine)).one_or_none()
    if row is None:
        raise NotFound("There is no such delivery of this webhook.", code="delivery_not_found")
    return row[0], row[1]


def ping(session: Session, endpoint: WebhookEndpoint, event_type: str) -> WebhookDelivery:
    """Send an event to this endpoint alone and return its delivery. Raises Conflict if it is disabled."""
    _refuse_disabled(endpoint)
    data = {"webhook": endpoint.id}
    event = WebhookEvent(id=new_id("evt"), type=event_type, data=data, time=now(), fanned_out=True)
    session.add(event)
    session.flush()
    fanning_out.deliver_to(session, endpoint, [event])
    return session.scalars(select(WebhookDelivery).where(WebhookDelivery.event_id == event.id)).one()


def _refuse_disabled(endpoint: WebhookEndpoint) -> None:
    if not endpoint.enabled:
        detail = f"The webhook is disabled ({endpoint.disabled_reason}); enable it first."
        raise Conflict(detail, code="webhook_disabled")


def replay(session: Session, endpoint: WebhookEndpoint, delivery: WebhookDelivery) -> None:
    """Send a delivery again, with all its attempts before it. Raises Conflict if the endpoint is disabled."""
    _refuse_disabled(endpoint)
    was = delivery.state
    session.execute(_again().where(WebhookDelivery.id == delivery.id).values(next_at=now()))
    session.refresh(delivery)
    told = {"delivery": delivery.id, "event": delivery.event_id, "was": was}
    webhooks.record(session, endpoint, "webhook.replayed", told)


def replay_since(
    session: Session, endpoint: WebhookEndpoint, since: datetime, *, include_delivered: bool
) -> tuple[int, datetime | None]:
    """Send again what happened since a moment, and what the endpoint missed while it was disabled, in order.

    Returns how many deliveries, and from when on to ask for the rest where there was more than one call may bring.
    Raises Conflict if the endpoint is disabled.
    """
    _refuse_disabled(endpoint)
    until = _end_of_one_call(session, since)
    happened = select(WebhookEvent.id).where(WebhookEvent.time >= since, WebhookEvent.time <= (until or now()))
    missed = _missed(session, endpoint, happened)
    states = [PENDING, DEAD, *([DELIVERED] if include_delivered else [])]
    of_event = select(WebhookEvent.time).where(WebhookEvent.id == WebhookDelivery.event_id).scalar_subquery()
    mine = (WebhookDelivery.endpoint_id == endpoint.id, WebhookDelivery.state.in_(states))
    again = session.execute(_again().where(*mine, WebhookDelivery.event_id.in_(happened)).values(next_at=of_event))
    count = fanning_out.deliver_to(session, endpoint, missed)
    count += again.rowcount if isinstance(again, CursorResult) else 0
    webhooks.record(session, endpoint, "webhook.replayed", {"since": audit.moment(since), "deliveries": count})
    return count, until


def _again() -> Update:
    fresh = {"state": PENDING, "attempts": 0, "finished_at": None, "claims": WebhookDelivery.claims + 1}
    return update(WebhookDelivery).values(**fresh).execution_options(synchronize_session=False)


def _end_of_one_call(session: Session, since: datetime) -> datetime | None:
    times = select(WebhookEvent.time).where(WebhookEvent.time >= since).order_by(WebhookEvent.time)
    return session.scalar(times.offset(MOST_REPLAYED - 1).limit(1))


def _missed(session: Session, endpoint: WebhookEndpoint, happened: Select[str]) -> list[WebhookEvent]:
    """Return the events that the endpoint would hear of now and has no delivery of."""
    has = exists().where(WebhookDelivery.event_id == WebhookEvent.id, WebhookDelivery.endpoint_id == endpoint.id)
    rows = session.scalars(
        select(WebhookEvent)
        .where(WebhookEvent.id.in_(happened), WebhookEvent.fanned_out, ~has)
        .order_by(WebhookEvent.time, WebhookEvent.id)
    )
    listener = fanning_out.listener(session, endpoint)
    return [event for event in rows if listener.hears(event)]


def prune(session: Session, before: datetime) -> int:
    """Delete events older than a moment with their deliveries, unless one is still to be sent; return how many."""
    sent_later = exists().where(WebhookDelivery.event_id == WebhookEvent.id, WebhookDelivery.next_at >= before)
    old = select(WebhookEvent.id).where(WebhookEvent.time < before, ~sent_later).limit(PRUNED_AT_ONCE)
    ids = list(session.scalars(old))
    if ids:
        session.execute(delete(WebhookEvent).where(WebhookEvent.id.in_(ids)))
    return len(ids)
