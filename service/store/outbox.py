"""What receivers elsewhere are to hear of, written in the transaction in which it happens."""

from typing import Any

from sqlalchemy.orm import Session

from service.store.tables import WebhookEvent
from service.store.types import new_id


def announce(session: Session, event_type: str, data: dict[str, Any]) -> str:
    """Note an event for the webhooks, to be delivered after the commit, and return its id.

    ``data`` is JSON-safe and holds no sample ID.
    """
    row = WebhookEvent(id=new_id("evt"), type=event_type, data=data)
    session.add(row)
    return row.id
