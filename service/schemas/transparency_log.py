"""Answers about the transparency log. Hashes are lowercase hex; checkpoints are signed notes (C2SP)."""

from datetime import datetime

from pydantic import BaseModel

from service.evidence.notes import NoteKey
from service.store.tables import SigningKey


class ProofOut(BaseModel):
    """`leaf_hash` is SHA-256(0x00 ‖ `entry` in UTF-8); `path` leads from it to `root_hash` (RFC 9162 §2.1.3.2)."""

    seq: int
    entry: str
    leaf_hash: str
    tree_size: int
    root_hash: str
    path: list[str]
    checkpoint: str


class ConsistencyOut(BaseModel):
    """`path` as in RFC 9162 §2.1.4; a checkpoint is null where none was signed at that size."""

    from_size: int
    to_size: int
    from_root: str
    to_root: str
    path: list[str]
    from_checkpoint: str | None
    to_checkpoint: str | None


class SigningKeyOut(BaseModel):
    """`key_id` is SHA-256 of the 32 bytes of `public_key`; `verifier_key` is what C2SP log clients take."""

    key_id: str
    algorithm: str
    public_key: str
    verifier_key: str
    not_before: datetime
    not_after: datetime | None
    revoked_at: datetime | None
    reason: str | None

    @classmethod
    def of(cls, row: SigningKey, *, origin: str) -> "SigningKeyOut":
        return cls(
            key_id=row.key_id,
            algorithm=row.algorithm,
            public_key=row.public_key.hex(),
            verifier_key=NoteKey(name=origin, public_key=row.public_key).verifier_key,
            not_before=row.not_before,
            not_after=row.not_after,
            revoked_at=row.revoked_at,
            reason=row.reason,
        )


class SigningKeysOut(BaseModel):
    """Oldest first."""

    origin: str
    items: list[SigningKeyOut]
