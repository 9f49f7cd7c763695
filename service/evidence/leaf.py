"""The bytes and the hash of one audit entry (RFC 8785 JSON, RFC 6962 leaf)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785

# What a C2SP entry bundle can hold: each entry's length stands before it in two bytes.
MAX_ENTRY_BYTES = 65_535
# Leaves room for the other fields at their longest, each character escaped.
MAX_PAYLOAD_BYTES = 60_000
_SHORT = 1_000


def canonical(document: Mapping[str, Any]) -> bytes:
    """Return the RFC 8785 bytes of a JSON document."""
    return rfc8785.dumps(dict(document))


def leaf_hash(entry: Mapping[str, Any]) -> bytes:
    """Return SHA-256(0x00 ‖ RFC 8785 JSON) of an entry's seq, time, actor, action, subject and payload."""
    return hashlib.sha256(b"\x00" + canonical(entry)).digest()


def entry_bytes(*, seq: int, time: str, actor: str, action: str, subject: str, payload: bytes) -> bytes:
    """Return the RFC 8785 bytes of an entry whose payload is in that form already."""
    fields = {"action": _text(action), "actor": _text(actor), "payload": payload, "seq": str(seq).encode()}
    fields |= {"subject": _text(subject), "time": _text(time)}
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in fields.items()) + b"}"


def _text(value: str) -> bytes:
    return rfc8785.dumps(value)


def payload_bytes(payload: Mapping[str, Any]) -> bytes:
    """Return the payload's RFC 8785 bytes, `MAX_PAYLOAD_BYTES` at most.

    Of a longer one, what is long gives way to its size and digest: the entry still commits to all of it.
    """
    whole = canonical(payload)
    if len(whole) <= MAX_PAYLOAD_BYTES:
        return whole
    parts = {name: rfc8785.dumps(value) for name, value in payload.items()}
    short = canonical({name: _digest(data) if len(data) > _SHORT else payload[name] for name, data in parts.items()})
    return short if len(short) <= MAX_PAYLOAD_BYTES else canonical(_digest(whole))


def _digest(data: bytes) -> dict[str, Any]:
    return {"omitted_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
