"""Keyed stand-ins for sample IDs, so that log and proofs speak of an id without holding it.

A commitment is ``HMAC-SHA256(k_id, id)`` with ``k_id = HKDF-SHA256(k_request, info=id)``: revealing one ``k_id``
opens one id, and destroying ``k_request`` makes all of them unlinkable. A plain hash would not do: ids are
guessable. The suppression token uses a durable key instead, since it must recognise the id years later.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32


def new_request_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def derive(key: bytes, purpose: str) -> bytes:
    """Return the 32-byte key HKDF-SHA256 gives for one purpose (or one id)."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(key)


def commitment(request_key: bytes, sample_id: str) -> bytes:
    """Return the commitment that stands for ``sample_id`` in this request."""
    return _commit(_extract(request_key), sample_id.encode())


def in_byte_order(request_key: bytes, sample_ids: Iterable[str]) -> list[bytes]:
    """Return the ids' commitments, sorted, so that they do not tell the ids' order."""
    extracted = _extract(request_key)
    return sorted(_commit(extracted, sample_id.encode()) for sample_id in sample_ids)


def commitment_root(request_key: bytes, sample_ids: Iterable[str]) -> bytes:
    """Return the RFC 6962 root over the commitments `in_byte_order`."""
    return merkle_root(in_byte_order(request_key, sample_ids))


def _extract(request_key: bytes) -> bytes:
    """Return HKDF's extracted key (RFC 5869 §2.2, no salt): the same for all ids of a request."""
    return hmac.digest(bytes(KEY_BYTES), request_key, "sha256")


def _commit(extracted: bytes, sample_id: bytes) -> bytes:
    # One block of HKDF's expansion (RFC 5869 §2.3) is `derive`'s 32 bytes; a test says they are equal.
    return hmac.digest(hmac.digest(extracted, sample_id + b"\x01", "sha256"), sample_id, "sha256")


def suppression_key(master_key: bytes) -> bytes:
    return derive(master_key, "suppression list")


def suppression_token(key: bytes, dataset_id: str, sample_id: str) -> bytes:
    """Return the durable keyed hash of an erased id; ``key`` from `suppression_key`."""
    return hmac.digest(key, f"{dataset_id}\x00{sample_id}".encode(), "sha256")


def fingerprint(master_key: bytes, body: bytes) -> bytes:
    """Return a keyed hash of a request body, to recognise it again without being able to guess its ids."""
    return hmac.digest(derive(master_key, "idempotency"), body, "sha256")


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 §2.1 tree head of the leaves' data."""
    return merkle_root_of([merkle_leaf(leaf) for leaf in leaves])


def merkle_leaf(data: bytes) -> bytes:
    """Return a leaf's hash."""
    return hashlib.sha256(b"\x00" + data).digest()


def merkle_root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the tree head over the hashes of leaves."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    level = list(hashes)
    # Carrying an odd last node up unchanged gives RFC 6962's left-full tree without recursion.
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
