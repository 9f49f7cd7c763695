"""Bundles that the verifier is to refuse: changed, or changed and signed again."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785

from service.evidence import verify
from service.evidence.verify import Refused, TrustedKey
from tests import certificate_cases as cases

KEY = cases.key()


PIN = [TrustedKey(pin=KEY.public_key)]


def refusal(raw: bytes, **given: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        verify.verify(raw, trusted=given.pop("trusted", PIN), **given)
    return caught.value


def edited(raw: bytes, change: Callable[[Any], Any]) -> bytes:
    document = json.loads(raw)
    change(document)
    return rfc8785.dumps(document)


def signed_again(raw: bytes, change: Callable[[Any], Any], *, part: str = "certificate") -> bytes:
    """Change a statement and sign it again with the same key: what the operator could do."""
    document = json.loads(raw)
    envelope = document["envelopes"][part]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = rfc8785.dumps(statement)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(KEY.sign(verify.pae(envelope["payloadType"], payload))).decode()
    return rfc8785.dumps(document)


def verifier_key(key: cases.Key) -> str:
    key_id = hashlib.sha256(key.name.encode() + b"\n\x01" + key.public_key).digest()[:4]
    encoded = base64.b64encode(b"\x01" + key.public_key).decode()
    return f"{key.name}+{key_id.hex()}+{encoded}"
