"""Repr-Digest (RFC 9530) and the strong ETag of a file that is named by its SHA-256."""

import base64
import binascii
import re
from collections.abc import Mapping

from service.errors import Fault, InvalidRequest

_SHA256 = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]+):")


def etag(sha256: str) -> str:
    return f'"sha256:{sha256}"'


def names_tag(if_none_match: str, tag: str) -> bool:
    """Say whether the header's value names the tag; RFC 9110 §13.1.2 compares weakly here."""
    named = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return tag in named or named == ["*"]


def repr_digest(sha256: str) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def stated_sha256(headers: Mapping[str, str]) -> str | None:
    """Return the hex SHA-256 that Repr-Digest states, None without the header. Raises InvalidRequest."""
    value = headers.get("repr-digest")
    if value is None:
        return None
    found = _SHA256.search(value)
    try:
        raw = base64.b64decode(found.group(1), validate=True) if found else b""
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        detail = "State the digest as Repr-Digest: sha-256=:<base64 of the 32 bytes>:"
        raise InvalidRequest(detail, code="invalid_digest", faults=[Fault("/headers/Repr-Digest", "invalid_digest")])
    return raw.hex()
