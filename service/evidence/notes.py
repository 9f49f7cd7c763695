"""Signed notes and checkpoints, as C2SP writes them (signed-note, tlog-checkpoint). Pure but for the signature itself.

A note is text, a blank line, and signature lines ``— <name> <base64 of key id ‖ signature>``. A checkpoint is a note
whose text is the log's origin, its size and its root.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.evidence.merkle import HASH_BYTES

ED25519 = b"\x01"
MAX_SIGNATURES = 100
_SIGNATURE = re.compile("\u2014 ([^ ]+) ([A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile("0|[1-9][0-9]{0,18}", re.ASCII)


class InvalidNote(ValueError):
    """A note is malformed, or not signed by a key that is trusted; the message names what is wrong."""


class CanSign(Protocol):
    """A name, its Ed25519 public key (32 bytes), and signatures of 64 bytes."""

    @property
    def name(self) -> str: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class NoteKey:
    """A public key under the name it signs notes with."""

    name: str
    public_key: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature line names its key: SHA-256(name ‖ LF ‖ 0x01 ‖ public key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:4]

    @property
    def verifier_key(self) -> str:
        """The key as log clients take it: ``name+<id>+<base64>``."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public_key).decode()}"

    @classmethod
    def parse(cls, text: str) -> "NoteKey":
        """Read a verifier key. Raises InvalidNote."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        data = _decoded(encoded, "verifier key")
        if not is_name(name) or data[:1] != ED25519 or len(data) != 1 + HASH_BYTES:
            raise InvalidNote("the verifier key is not that of an Ed25519 key: name+id+base64")
        key = cls(name=name, public_key=data[1:])
        if key.id.hex() != key_id:
            raise InvalidNote("the verifier key's id does not follow from its name and key")
        return key


def is_name(name: str) -> bool:
    """Say whether a key may have this name: not empty, no white space, no plus sign."""
    return bool(name) and "+" not in name and name.isprintable() and not any(c.isspace() for c in name)


def sign_note(text: str, signer: CanSign) -> str:
    """Return the note of a text, which ends in a newline, with one signature."""
    _check_text(text)
    key = NoteKey(name=signer.name, public_key=signer.public_key)
    signature = base64.b64encode(key.id + signer.sign(text.encode())).decode()
    return f"{text}\n\u2014 {signer.name} {signature}\n"


def open_note(note: str, trusted: Sequence[NoteKey]) -> str:
    """Return the text of a note that a trusted key signed. Raises InvalidNote.

    Signatures by other keys are passed over; one that names a trusted key and is wrong spoils the note.
    """
    text, signatures = _parted(note)
    known = {(key.name, key.id): key for key in trusted}
    signed = False
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is not None:
            _verify(key, text, signature)
            signed = True
    if not signed:
        raise InvalidNote("the note is not signed by a trusted key")
    return text


def _verify(key: NoteKey, text: str, signature: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key.public_key).verify(signature, text.encode())
    except InvalidSignature:
        raise InvalidNote(f"the signature of {key.name} ({key.id.hex()}) is not one of this text") from None


def _parted(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    text, blank, lines = note.rpartition("\n\n")
    text += "\n"
    if not blank or not lines.endswith("\n"):
        raise InvalidNote("the note does not consist of a text, a blank line and signature lines")
    _check_text(text)
    split = lines[:-1].split("\n")
    if len(split) > MAX_SIGNATURES:
        raise InvalidNote(f"the note has more than {MAX_SIGNATURES} signatures")
    return text, [_signature(line) for line in split]


def _signature(line: str) -> tuple[str, bytes, bytes]:
    match = _SIGNATURE.fullmatch(line)
    if match is None or not is_name(match[1]):
        raise InvalidNote("a signature line of the note is malformed")
    data = _decoded(match[2], "signature")
    if len(data) < 5:
        raise InvalidNote("a signature of the note is too short")
    return match[1], data[:4], data[4:]


def _check_text(text: str) -> None:
    if not text.endswith("\n") or any(ord(c) < 0x20 and c != "\n" for c in text):
        raise InvalidNote("a note's text ends in a newline and holds no other control character")


def _decoded(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidNote(f"the {what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise InvalidNote(f"the {what} is not in canonical base64")
    return data


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a log commits to: its first ``size`` entries, by their Merkle root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read a checkpoint's text; lines after the third are extensions and passed over. Raises InvalidNote."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or "" in lines:
            raise InvalidNote("a checkpoint has three lines or more, none empty")
        if _SIZE.fullmatch(lines[1]) is None:
            raise InvalidNote("the checkpoint's size is not a decimal number without leading zeros")
        root = _decoded(lines[2], "checkpoint's root")
        if len(root) != HASH_BYTES:
            raise InvalidNote(f"the checkpoint's root is not {HASH_BYTES} bytes")
        return cls(origin=lines[0], size=int(lines[1]), root=root)


def open_checkpoint(note: str, trusted: Sequence[NoteKey]) -> Checkpoint:
    """Return the checkpoint in a note that a key of its log signed. Raises InvalidNote."""
    found = Checkpoint.parse(_parted(note)[0])
    # A checkpoint speaks for its log alone: a trusted key of another name does not count.
    open_note(note, [key for key in trusted if key.name == found.origin])
    return found
