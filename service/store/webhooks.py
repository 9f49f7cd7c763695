"""Webhook endpoints: where each key wants to be told, which events, and the sealed secrets that sign."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ScalarSelect, func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.store import audit
from service.store.tables import ApiKey, AuditLink, WebhookEndpoint
from service.store.types import new_id, now

ALL = "*"
MAX_PER_KEY = 100


def new_endpoint_id() -> str:
    return new_id("whk")


def create(
    session: Session,
    *,
    endpoint_id: str,
    key_id: str,
    url: str,
    host: str,
    events: list[str],
    description: str,
    secret: bytes,
) -> WebhookEndpoint:
    """Add an endpoint that belongs to the key. Raises Conflict at the most one key may have."""
    # Two calls of one key come one after the other, so that neither overlooks the other's endpoint.
    session.execute(select(ApiKey.id).where(ApiKey.id == key_id).with_for_update(key_share=True))
    count = session.scalar(select(func.count()).where(WebhookEndpoint.key_id == key_id))
    if (count or 0) >= MAX_PER_KEY:
        raise Conflict(f"A key has at most {MAX_PER_KEY} webhooks; delete one first.", code="too_many_webhooks")
    row = WebhookEndpoint(
        id=endpoint_id, key_id=key_id, url=url, events=events, description=description, secret=secret, enabled=True
    )
    session.add(row)
    session.flush()
    record(session, row, "webhook.created", {"host": host, "events": events})
    return row


def get(session: Session, endpoint_id: str, *, key_id: str | None, lock: bool = False) -> WebhookEndpoint:
    """Return the endpoint if it is the key's, or whoever's without one. Raises NotFound."""
    row = session.get(WebhookEndpoint, endpoint_id, with_for_update=True if lock else None)
    if row is None or key_id not in (None, row.key_id):
        raise NotFound("There is no such webhook.", code="webhook_not_found")
    return row


def page(session: Session, *, key_id: str | None, after: str, limit: int) -> list[WebhookEndpoint]:
    """Return the key's endpoints, or everybody's without one, oldest first."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.id > after)
    if key_id is not None:
        query = query.where(WebhookEndpoint.key_id == key_id)
    return list(session.scalars(query.order_by(WebhookEndpoint.id).limit(limit)))


def scopes_of(session: Session, row: WebhookEndpoint) -> frozenset[str]:
    """Return the scopes of the key the endpoint belongs to."""
    return frozenset(session.get_one(ApiKey, row.key_id).scopes)


def first_entry() -> ScalarSelect[int]:
    """Return, for a query of endpoints, the number of the log's entry that says that the endpoint was made."""
    of_endpoint = (AuditLink.kind == "webhook", AuditLink.ref == WebhookEndpoint.id)
    return select(func.min(AuditLink.seq)).where(*of_endpoint).correlate(WebhookEndpoint).scalar_subquery()


def change(session: Session, row: WebhookEndpoint, changes: dict[str, Any], *, host: str | None) -> None:
    """Apply what is given of url, events, description and enabled. ``host``: of the new URL."""
    for name, value in changes.items():
        setattr(row, name, value)
    if "enabled" in changes:
        row.disabled_reason = None if row.enabled else "by_request"
    told = {name: value for name, value in changes.items() if name in ("events", "enabled")}
    record(session, row, "webhook.changed", {"fields": sorted(changes), **told, **({"host": host} if host else {})})


def disable(session: Session, row: WebhookEndpoint, *, reason: str) -> None:
    """Stop calling the endpoint until somebody enables it again; what is pending waits."""
    if row.enabled:
        row.enabled, row.disabled_reason = False, reason
        record(session, row, "webhook.changed", {"fields": ["enabled"], "enabled": False, "reason": reason})


def rotate(session: Session, row: WebhookEndpoint, secret: bytes, *, previous_until: datetime | None) -> None:
    """Sign with another secret, and with the one until now as well until the moment given."""
    keep = previous_until is not None and previous_until > now()
    row.previous_secret = row.secret if keep else None
    row.previous_secret_until = previous_until if keep else None
    row.secret = secret
    until = audit.moment(previous_until) if keep and previous_until else None
    record(session, row, "webhook.secret_rotated", {"previous_until": until})


def signing(row: WebhookEndpoint) -> Sequence[bytes]:
    """Return the sealed secrets that sign now, the newest first."""
    until = row.previous_secret_until
    if row.previous_secret is None or until is None or until <= now():
        return [row.secret]
    return [row.secret, row.previous_secret]


def delete(session: Session, row: WebhookEndpoint) -> None:
    """Remove the endpoint and its deliveries."""
    record(session, row, "webhook.deleted", {})
    session.delete(row)


def record(session: Session, row: WebhookEndpoint, action: str, payload: dict[str, Any]) -> None:
    """Note an action of an endpoint in the audit log; of its URL the host alone, since the rest may hold secrets."""
    links = {"webhook": row.id, "key": row.key_id}
    audit.record(session, action, subject=f"webhook/{row.id}", payload=payload, links=links)
