"""From events to deliveries: which endpoints hear of what."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BindParameter, ColumnElement, Select, and_, insert, or_, select, update
from sqlalchemy.orm import Session

from service.catalogue.webhook_events import EVENTS, PING
from service.store.tables import ApiKey, WebhookDelivery, WebhookEndpoint, WebhookEvent, table_of
from service.store.types import new_id, now
from service.store.webhooks import ALL, first_entry

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
BATCH = 500
_DELIVERIES = table_of(WebhookDelivery)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """An endpoint with the scopes its key has now. ``entry``: number of the log's entry that says that it was made."""

    endpoint: WebhookEndpoint
    scopes: frozenset[str]
    entry: int | None

    def hears(self, event: WebhookEvent) -> bool:
        """Say whether the event is for this endpoint.

        One with a recipient goes to the recipient's own endpoints, and to those of auditors and administrators that
        asked for everything: they watch over who was told.
        """
        spec = EVENTS.get(event.type)
        everything = ALL in self.endpoint.events
        asked_for = everything or event.type in self.endpoint.events
        if spec is None or event.type == PING or self._is_younger_than(event) or not asked_for:
            return False
        if spec.addressed:
            mine = event.data.get("recipient") == self.endpoint.key_id
            return mine or (everything and may(self.scopes, "audit:read"))
        return may(self.scopes, spec.scope)

    def _is_younger_than(self, event: WebhookEvent) -> bool:
        """Compare by the log, which does not go back with a clock; by time where a row is older than that."""
        if event.log_size is None or self.entry is None:
            return event.time < self.endpoint.created_at
        return event.log_size <= self.entry


def may(scopes: frozenset[str], scope: str) -> bool:
    """Say whether the scopes allow it; an area means reading and writing, as in `service.auth`."""
    return bool(scopes & {"admin", scope, scope.partition(":")[0]})


def key_is_valid(at: BindParameter[datetime] | None = None) -> ColumnElement[bool]:
    """Return the condition under which an API key counts at a moment that is given later, or now."""
    moment = now() if at is None else at
    return and_(ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > moment))


def fan_out(session: Session) -> int:
    """Make deliveries of the next events in the order of their time, and return how many events there were."""
    events = list(
        session.scalars(
            select(WebhookEvent)
            .where(~WebhookEvent.fanned_out)
            .order_by(WebhookEvent.time, WebhookEvent.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
    )
    if events:
        found = listeners(session)
        _deliver(session, [(each.endpoint, event) for event in events for each in found if each.hears(event)])
        ids = [event.id for event in events]
        session.execute(update(WebhookEvent).where(WebhookEvent.id.in_(ids)).values(fanned_out=True))
    return len(events)


def listeners(session: Session) -> list[Listener]:
    """Return the endpoints that may be told of anything now."""
    rows = session.execute(_with_scopes().where(WebhookEndpoint.enabled, key_is_valid()).order_by(WebhookEndpoint.id))
    return [Listener(endpoint=row[0], scopes=frozenset(row[1]), entry=row[2]) for row in rows]


def listener(session: Session, endpoint: WebhookEndpoint) -> Listener:
    """Return one endpoint as a listener, whether or not it may be told of anything now."""
    row = session.execute(_with_scopes().where(WebhookEndpoint.id == endpoint.id)).one()
    return Listener(endpoint=endpoint, scopes=frozenset(row[1]), entry=row[2])


def _with_scopes() -> Select[WebhookEndpoint, list[str], int]:
    return select(WebhookEndpoint, ApiKey.scopes, first_entry()).join(ApiKey, ApiKey.id == WebhookEndpoint.key_id)


def deliver_to(session: Session, endpoint: WebhookEndpoint, events: Iterable[WebhookEvent]) -> int:
    """Make deliveries of events to one endpoint and return how many."""
    return _deliver(session, [(endpoint, event) for event in events])


def _deliver(session: Session, pairs: list[tuple[WebhookEndpoint, WebhookEvent]]) -> int:
    rows = [
        {
            "id": new_id("dlv"),
            "event_id": event.id,
            "endpoint_id": endpoint.id,
            "state": PENDING,
            "attempts": 0,
            "claims": 0,
            # Due since it happened: what is due longest is sent first, so that events keep their order.
            "next_at": event.time,
            "created_at": now(),
        }
        for endpoint, event in pairs
    ]
    if rows:
        session.execute(insert(_DELIVERIES), rows)
    return len(rows)
