"""The bytes and the hash of one audit entry (RFC 8785 JSON, RFC 6962 leaf)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return the RFC 8785 bytes of a JSON document."""
    return rfc8785.dumps(dict(document))


def leaf_hash(entry: Mapping[str, Any]) -> bytes:
    """Return SHA-256(0x00 ‖ RFC 8785 JSON) of an entry's seq, time, actor, action, subject and payload."""
    return hashlib.sha256(b"\x00" + canonical(entry)).digest()
