"""A store whose webhooks are delivered by hand."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.deps import Parts
from service.store import audit, deliveries, keys, outbox, webhooks
from service.store.session import Database
from service.store.tables import WebhookDelivery
from service.webhooks import signatures
from service.webhooks.courier import Courier
from tests.receiver import Received

MASTER = "ab" * 32


@dataclass
class Post:
    """A store, and couriers that are turned by hand."""

    parts: Parts
    couriers: list[Courier] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.parts.database

    def courier(self, **given: Any) -> Courier:
        found = Courier(self.parts, **given)
        self.couriers.append(found)
        return found

    def endpoint(self, url: str, *, scopes: tuple[str, ...] = ("admin",), events: tuple[str, ...] = ("*",)) -> str:
        """Add an endpoint with a key of its own."""
        secret, endpoint_id = signatures.new_secret(), webhooks.new_endpoint_id()
        sealed = signatures.seal(bytes.fromhex(MASTER), endpoint_id, secret)
        with self.database.writing() as session:
            key, _ = keys.create(session, name="receiver", scopes=list(scopes))
            given: dict[str, Any] = {"host": "h", "description": "", "events": list(events)}
            webhooks.create(session, endpoint_id=endpoint_id, key_id=key.id, url=url, secret=sealed, **given)
        self.secrets[endpoint_id] = secret
        return endpoint_id

    def announce(self, *numbers: int, kind: str = "certificate.issued", **data: Any) -> list[str]:
        found = []
        for number in numbers:
            with self.database.writing() as session:
                found.append(outbox.announce(session, kind, {"number": number, **data}))
        return found

    def rows(self, endpoint_id: str) -> list[WebhookDelivery]:
        with self.database.reading() as session:
            return [row for row, _ in deliveries.page(session, endpoint_id, before=None, limit=1000)][::-1]

    def until(self, courier: Courier, done: Callable[[], Any], seconds: float = 60) -> None:
        """Turn the courier until something holds."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it did not come about"
            courier.turn(self.parts)
            time.sleep(0.02)

    def actions(self, subject: str) -> list[str]:
        with self.database.reading() as session:
            return [entry.action for entry in audit.find(session, limit=10_000) if entry.subject == subject]

    def states(self, endpoint_id: str) -> list[str]:
        return [row.state for row in self.rows(endpoint_id)]


def numbers_of(calls: list[Received]) -> list[int]:
    return [json.loads(call.body)["data"]["number"] for call in calls]
