"""What signed or was told something and was ended after the backup: signing keys and webhooks, as the log tells it."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from service.store.signing_keys import ALGORITHM
from service.store.tables import SigningKey, WebhookEndpoint

RESTORED = "changed_before_restore"
_REPLACED = frozenset({"url", "enabled"})


def signing_keys(session: Session, later: Sequence[Mapping[str, Any]]) -> None:
    """Add, retire and revoke signing keys again: what a stolen one signs must not be valid once more."""
    for entry in later:
        payload = json.loads(entry["payload"]) if entry["action"].startswith("signing_key.") else {}
        key_id = str(entry["subject"]).rpartition("/")[2]
        row = session.get(SigningKey, key_id) if payload else None
        match entry["action"]:
            case "signing_key.added" if row is None:
                session.add(_added(key_id, payload))
            case "signing_key.retired" if row is not None:
                row.not_after = datetime.fromisoformat(payload["not_after"])
            case "signing_key.revoked" if row is not None:
                row.revoked_at, row.reason = datetime.fromisoformat(payload["revoked_at"]), payload["reason"]
        session.flush()  # one after the other, since there is one current key at any moment


def _added(key_id: str, payload: Mapping[str, Any]) -> SigningKey:
    return SigningKey(
        key_id=key_id,
        algorithm=payload.get("algorithm", ALGORITHM),
        public_key=bytes.fromhex(payload["public_key"]),
        not_before=datetime.fromisoformat(payload["not_before"]),
    )


def webhooks(session: Session, later: Sequence[Mapping[str, Any]]) -> int:
    """Delete endpoints again, and disable those whose address or secret was replaced; return how many."""
    count = 0
    for entry in later:
        row = session.get(WebhookEndpoint, str(entry["subject"]).rpartition("/")[2]) if _ends(entry) else None
        if row is None:
            continue
        count += 1
        if entry["action"] == "webhook.deleted":
            session.delete(row)
        else:
            row.enabled, row.disabled_reason = False, RESTORED
        session.flush()
    return count


def _ends(entry: Mapping[str, Any]) -> bool:
    if entry["action"] == "webhook.changed":
        return bool(_REPLACED & {*json.loads(entry["payload"])["fields"]})
    return entry["action"] in ("webhook.deleted", "webhook.secret_rotated")
