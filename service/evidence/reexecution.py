"""Which erasures are done twice: drawn from a signed checkpoint of the log, so that nobody picks them. Pure.

The checkpoint is that of the log up to and with the entry that commits the job to its result. Its size is thus fixed
by the entry, and an Ed25519 signature (RFC 8032) by the text it signs: drawing again gives the same draw, and before
the result is committed to, nobody knows it.
"""

import hashlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from service.evidence.leaf import canonical


def drawn(note: str, job_id: str) -> bytes:
    """Return SHA-256(note ‖ job id): the note as the log's own key signed it, without signatures added later."""
    return hashlib.sha256(note.encode() + job_id.encode()).digest()


def is_chosen(note: str, job_id: str, *, share: float) -> bool:
    """Say whether the draw, read as a big-endian fraction in [0, 1), lies below the share."""
    return Fraction(int.from_bytes(drawn(note, job_id)), 1 << 256) < Fraction(share)


def parameters_digest(config: Mapping[str, Any], *, seed: int) -> str:
    """Return SHA-256, in hex, of the RFC 8785 bytes of a method's configuration, defaults written out, and its seed."""
    return hashlib.sha256(canonical({"config": dict(config), "seed": seed})).hexdigest()
