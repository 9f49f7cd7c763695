"""Signing keys: RFC 8032's vectors, and files that only their owner may read."""

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from service.evidence import signing
from service.evidence.signing import Signer, UnusableKey

# RFC 8032 §7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def _pem(seed: bytes) -> str:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def test_a_seed_signs_as_rfc_8032_says() -> None:
    signer = Signer.of_seed(SEED, name="log")
    assert signer.public_key == PUBLIC
    assert signer.sign(b"\x72") == SIGNATURE
    assert signer.key_id == hashlib.sha256(PUBLIC).hexdigest()
    assert SEED.hex() not in repr(signer)


def test_a_new_key_is_new() -> None:
    assert Signer.new(name="a").public_key != Signer.new(name="a").public_key


@pytest.mark.parametrize("text", [SEED.hex(), SEED.hex().upper() + "\n", _pem(SEED)])
def test_a_seed_is_read_as_hex_or_pem(text: str, tmp_path: Path) -> None:
    assert signing.parse_seed(text) == SEED
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(text)
    assert signing.read_seed(path) == SEED


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o660])
def test_a_file_that_others_may_read_or_write_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SEED.hex())
    path.chmod(mode)
    with pytest.raises(UnusableKey, match=f"mode {mode:04o}.*chmod 600"):
        signing.read_seed(path)
    path.chmod(0o400)
    assert signing.read_seed(path) == SEED


def test_what_is_no_ed25519_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    elliptic = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text in ("", "ab" * 31, "zz" * 32, "-----BEGIN PRIVATE KEY-----\nxx\n", elliptic.decode()):
        with pytest.raises(UnusableKey) as refusal:
            signing.parse_seed(text)
        assert not text or text[:20] not in str(refusal.value)
    with pytest.raises(UnusableKey, match="cannot be read"):
        signing.read_seed(tmp_path / "absent")
