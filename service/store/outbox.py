"""What receivers elsewhere are to hear of, written in the transaction in which it happens.

Where nobody has made a webhook nothing is stored: events begin with the first endpoint.
"""

import re
from typing import Any

from sqlalchemy import Insert, bindparam, exists, false, insert, select
from sqlalchemy.orm import Session

from service.catalogue.webhook_events import EVENTS
from service.store.tables import AuditHead, WebhookEndpoint, WebhookEvent, table_of
from service.store.types import new_id, now

_PENDING = "webhook_events_pending"
_CODE = re.compile(r"[a-z0-9_]{1,64}\Z")


def announce(session: Session, event_type: str, data: dict[str, Any]) -> str:
    """Note an event for the webhooks, to be delivered after the commit, and return its id.

    ``data`` is JSON-safe and holds no sample ID. Raises ValueError for a type that the catalogue does not list.
    """
    if event_type not in EVENTS:
        raise ValueError(f"unknown event type {event_type!r}; known: {', '.join(EVENTS)}")
    row = {"id": new_id("evt"), "type": event_type, "data": data, "time": now()}
    session.info.setdefault(_PENDING, []).append(row)
    return str(row["id"])


def append_announced(session: Session) -> None:
    """Insert what was announced, if anybody listens; the transaction's boundary calls this."""
    pending: list[dict[str, Any]] = session.info.pop(_PENDING, [])
    if pending:
        session.execute(_IF_ANYBODY_LISTENS, pending)


def _if_anybody_listens() -> Insert:
    # One statement that also looks whether there is an endpoint: the caller of a busy route waits for no other.
    columns = ("id", "type", "data", "time")
    values = [bindparam(name, type_=table_of(WebhookEvent).c[name].type) for name in columns]
    listening = exists().where(table_of(WebhookEndpoint).c.id.is_not(None))
    # Times go back with the clock and the log's size does not: it says which endpoints were there before.
    head = table_of(AuditHead).c
    size = select(head.size).where(head.id == 1).scalar_subquery()
    row = select(*values, false(), size).where(listening)
    return insert(table_of(WebhookEvent)).from_select([*columns, "fanned_out", "log_size"], row)


_IF_ANYBODY_LISTENS = _if_anybody_listens()


def is_code(value: Any) -> bool:
    """Say whether a value is a bare code: free text, which people write, stays out of payloads."""
    return isinstance(value, str) and _CODE.match(value) is not None
