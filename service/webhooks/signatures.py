"""Secrets of webhooks and what is signed with them (Standard Webhooks 1.0.0, symmetric: HMAC-SHA256)."""

import base64
import binascii
import secrets
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from standardwebhooks import Webhook

from service.evidence.commitments import derive

PREFIX = "whsec_"
SECRET_BYTES = 32
# The specification's bounds for a symmetric secret.
LEAST_BYTES, MOST_BYTES = 24, 64
_NONCE = 12


class SecretUnreadable(Exception):
    """The stored secret does not open with this master key."""


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def is_secret(text: str) -> bool:
    """Say whether a text has the specification's form: ``whsec_`` and 24 to 64 bytes in base64."""
    try:
        found = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith(PREFIX) and LEAST_BYTES <= len(found) <= MOST_BYTES


def seal(master_key: bytes, endpoint_id: str, secret: str) -> bytes:
    """Encrypt a secret for one endpoint (AES-256-GCM); it opens for no other."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(_key(master_key)).encrypt(nonce, secret.encode(), endpoint_id.encode())


def unseal(master_key: bytes, endpoint_id: str, sealed: bytes) -> str:
    """Return what `seal` encrypted. Raises SecretUnreadable."""
    try:
        return AESGCM(_key(master_key)).decrypt(sealed[:_NONCE], sealed[_NONCE:], endpoint_id.encode()).decode()
    except (InvalidTag, ValueError):
        raise SecretUnreadable from None


def _key(master_key: bytes) -> bytes:
    return derive(master_key, "webhook secrets")


def headers(secrets_now: Sequence[str], *, message_id: str, moment: datetime, body: bytes) -> dict[str, str]:
    """Return the three headers; each secret signs, so that a receiver may still know the old or already the new."""
    signed = [Webhook(secret).sign(message_id, moment, body.decode()) for secret in secrets_now]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signed),
    }
