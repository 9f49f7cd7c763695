"""Keys at rest: a request's key is stored encrypted under a key that only the master key gives.

A copy of the database alone then opens no commitment. The request's id is authenticated beside the key, so that a
wrapped key moved to another request's row is refused. AES-256-GCM (NIST SP 800-38D), a random 96-bit nonce in front.
"""

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.evidence.commitments import KEY_BYTES, derive

WRAPPING = "aes-256-gcm"
NONCE_BYTES, TAG_BYTES = 12, 16
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES


class CannotUnwrap(Exception):
    """The wrapped key is another request's, was altered, or was wrapped under another master key."""


def wrapping_key(master_key: bytes) -> bytes:
    return derive(master_key, "request keys")


def wrap(key: bytes, request_key: bytes, request_id: str) -> bytes:
    """Return nonce, ciphertext and tag: 60 bytes. ``key`` from `wrapping_key`."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, request_key, request_id.encode())


def unwrap(key: bytes, wrapped: bytes, request_id: str) -> bytes:
    """Return the request's key. Raises CannotUnwrap."""
    if len(wrapped) != WRAPPED_BYTES:
        raise CannotUnwrap
    try:
        return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], request_id.encode())
    except InvalidTag:
        raise CannotUnwrap from None
