"""A certificate's bundle: three statements in DSSE envelopes, the log's proofs and the public keys, in one document.

The certificate's own statement holds the digests of everything else in the bundle, so that its one signature covers
each byte. The bytes are canonical (RFC 8785).
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.evidence import certificate, statements
from service.evidence.facts import CertificateFacts, Json, LoggedEntry, written
from service.evidence.leaf import canonical
from service.evidence.verify import BUNDLE_TYPE, PAYLOAD_TYPE, pae, sha256


class Signer(Protocol):
    """Whoever holds the private half of an Ed25519 key. ``public_key``: its 32 bytes."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """A public key of the service and when it may sign."""

    name: str
    public_key: bytes
    not_before: datetime
    not_after: datetime | None
    revoked_at: datetime | None

    def document(self) -> Json:
        return {
            "name": self.name,
            "key_id": sha256(self.public_key),
            "public_key": base64.b64encode(self.public_key).decode(),
            "not_before": written(self.not_before),
            "not_after": written(self.not_after),
            "revoked_at": written(self.revoked_at),
        }


@dataclass(frozen=True, kw_only=True)
class LogProofs:
    """Log entries in order, each with its inclusion proof under the one signed checkpoint."""

    checkpoint: str
    entries: Sequence[tuple[LoggedEntry, Sequence[bytes]]]

    def document(self) -> Json:
        return {
            "checkpoint": self.checkpoint,
            "entries": [
                {"entry": entry.document(), "proof": [base64.b64encode(node).decode() for node in proof]}
                for entry, proof in self.entries
            ],
        }


def make(facts: CertificateFacts, *, log: LogProofs, keys: Sequence[KeyRecord], signer: Signer) -> bytes:
    """Return the bundle in canonical bytes."""
    proofs, listed = log.document(), [key.document() for key in keys]
    provenance = canonical(statements.statement("provenance", facts, statements.provenance(facts)))
    tests = canonical(statements.statement("test_result", facts, statements.test_result(facts)))
    evidence = {
        "provenance_sha256": sha256(provenance),
        "test_result_sha256": sha256(tests),
        "log_sha256": sha256(canonical(proofs)),
        "keys_sha256": sha256(canonical_list(listed)),
    }
    whole = canonical(statements.statement("certificate", facts, certificate.predicate(facts, evidence)))
    return canonical(
        {
            "media_type": BUNDLE_TYPE,
            "envelopes": {
                "certificate": envelope(whole, signer),
                "provenance": envelope(provenance, signer),
                "test_result": envelope(tests, signer),
            },
            "log": proofs,
            "keys": listed,
        }
    )


def envelope(payload: bytes, signer: Signer) -> Json:
    """Return the DSSE envelope of a statement."""
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": sha256(signer.public_key), "sig": base64.b64encode(signature).decode()}],
    }


def canonical_list(items: Sequence[Json]) -> bytes:
    """Return the RFC 8785 bytes of a list of documents."""
    return b"[" + b",".join(canonical(item) for item in items) + b"]"
