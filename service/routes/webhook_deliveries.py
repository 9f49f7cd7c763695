"""/v1/webhooks/{webhook_id}/deliveries: what was sent, what waits, what is dead, and sending it again."""

from typing import Literal

from fastapi import APIRouter

from service.catalogue.webhook_events import PING
from service.deps import PartsDep, writing_as
from service.routes.webhooks import Reader, Writer, owner
from service.schemas.common import Limit, Page, decode_cursor, encode_cursor
from service.schemas.webhooks import DeliveryErrorOut, DeliveryOut, ReplayIn, ReplayOut
from service.store import deliveries, webhooks
from service.store.tables import WebhookDelivery

router = APIRouter(prefix="/v1/webhooks/{webhook_id}", tags=["webhooks"])
_DETAILS = {
    "timeout": "The receiver did not answer in time. Answer first, and work afterwards.",
    "connection_failed": "No connection to the receiver came about, or it broke off.",
    "tls_failed": "The receiver's certificate is not valid for its name, or TLS failed otherwise.",
    "answer_malformed": "What the receiver answered is not HTTP.",
    "redirect_refused": "The receiver answered with a redirect, which is not followed. Register where it leads to.",
    "status_refused": "The receiver answered with a status other than 2xx.",
    "receiver_gone": "The receiver answered 410 Gone, so the webhook was disabled.",
    "host_not_resolved": "The host's name had no address at the time.",
    "address_not_public": "The host's name led to an address that is not public at the time; nothing was sent.",
    "secret_unreadable": "The stored secret does not open with the service's master key; rotate the secret.",
}
_OTHERWISE = "The delivery could not be made; the operator finds the reason in the service's log."


def _view(row: WebhookDelivery, event_type: str) -> DeliveryOut:
    same = ("id", "event_id", "state", "attempts", "last_status", "created_at", "attempted_at", "finished_at")
    code = row.last_error
    return DeliveryOut(
        type=event_type,
        next_attempt_at=row.next_at,
        error=DeliveryErrorOut(code=code, detail=_DETAILS.get(code, _OTHERWISE)) if code else None,
        **{field: getattr(row, field) for field in same},
    )


@router.get("/deliveries", operation_id="list_webhook_deliveries")
def list_all(
    webhook_id: str,
    parts: PartsDep,
    who: Reader,
    state: Literal["pending", "delivered", "dead"] | None = None,
    limit: Limit = 100,
    cursor: str | None = None,
) -> Page[DeliveryOut]:
    """List deliveries, newest first; ``state=dead`` is the dead letter queue."""
    before = decode_cursor(cursor)
    with parts.database.reading() as session:
        webhooks.get(session, webhook_id, key_id=owner(who))
        rows = deliveries.page(session, webhook_id, before=before, limit=limit, state=state)
    items = [_view(*row) for row in rows]
    return Page(items=items, next_cursor=encode_cursor(items[-1].id) if len(items) == limit else None)


@router.post("/test", status_code=202, operation_id="test_webhook")
def ping(webhook_id: str, parts: PartsDep, who: Writer) -> DeliveryOut:
    """Send a `webhook.ping` to this endpoint alone."""
    with writing_as(parts, who) as session:
        row = webhooks.get(session, webhook_id, key_id=owner(who), lock=True)
        return _view(deliveries.ping(session, row, PING), PING)


@router.post("/deliveries/{delivery_id}/replay", status_code=202, operation_id="replay_webhook_delivery")
def replay(webhook_id: str, delivery_id: str, parts: PartsDep, who: Writer) -> DeliveryOut:
    """Send one delivery again, under its old `webhook-id`."""
    with writing_as(parts, who) as session:
        endpoint = webhooks.get(session, webhook_id, key_id=owner(who), lock=True)
        row, event_type = deliveries.get(session, webhook_id, delivery_id)
        deliveries.replay(session, endpoint, row)
        return _view(row, event_type)


@router.post("/replay", status_code=202, operation_id="replay_webhook")
def replay_since(webhook_id: str, body: ReplayIn, parts: PartsDep, who: Writer) -> ReplayOut:
    """Send again, in order, what happened since a moment, and what the endpoint missed while it was disabled."""
    with writing_as(parts, who) as session:
        endpoint = webhooks.get(session, webhook_id, key_id=owner(who), lock=True)
        count, rest = deliveries.replay_since(session, endpoint, body.since, include_delivered=body.include_delivered)
        return ReplayOut(replayed=count, next_since=rest)
