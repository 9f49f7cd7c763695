"""The service's Ed25519 signing key: made, read from a setting or from a file that only its owner may read."""

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

SEED_BYTES = 32


class UnusableKey(ValueError):
    """A signing key cannot be read or may not be used; the message says why and never shows the key."""


def key_id_of(public_key: bytes) -> str:
    """Return the name of a public key: SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(public_key).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A name and the key that signs under it. ``public_key`` is 32 raw bytes; ``key_id`` is `key_id_of` it."""

    name: str
    public_key: bytes
    key_id: str
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of_seed(cls, seed: bytes, *, name: str) -> "Signer":
        """Return the signer of an RFC 8032 seed of 32 bytes."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public = private.public_key().public_bytes_raw()
        return cls(name=name, public_key=public, key_id=key_id_of(public), _private=private)

    @classmethod
    def new(cls, *, name: str) -> "Signer":
        return cls.of_seed(os.urandom(SEED_BYTES), name=name)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the RFC 8032 signature."""
        return self._private.sign(message)


def parse_seed(text: str) -> bytes:
    """Return the seed in a key's text: 64 hex characters, or an unencrypted PKCS #8 PEM. Raises UnusableKey."""
    text = text.strip()
    if not text.startswith("-----BEGIN"):
        return _hex_seed(text)
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey("the signing key's PEM cannot be read; it is PKCS #8 without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnusableKey("the signing key is not an Ed25519 key")
    return key.private_bytes_raw()


def _hex_seed(text: str) -> bytes:
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise UnusableKey("the signing key is a PEM, or 64 hexadecimal characters (its 32-byte seed)")
    return seed


def read_seed(path: Path) -> bytes:
    """Return the seed in a file of mode 0600 or stricter. Raises UnusableKey."""
    try:
        with path.open("rb") as file:
            # Asked of the open file, so that the file that is read is the one that was looked at.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(16_384).decode("ascii", errors="replace")
    except OSError as error:
        raise UnusableKey(f"the signing key's file cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise UnusableKey(f"the signing key's file has mode {mode:04o}: others may use it; run chmod 600 on it")
    return parse_seed(text)
