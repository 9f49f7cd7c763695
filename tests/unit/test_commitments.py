"""Commitments and Merkle roots against formulas written again from RFC 5869 and RFC 6962."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evidence import commitments

KEYS = st.binary(min_size=32, max_size=32)


def _hkdf(key: bytes, info: bytes, length: int, salt: bytes = bytes(32)) -> bytes:
    """RFC 5869 §2: extract, then expand in numbered blocks."""
    extracted = hmac.new(salt, key, hashlib.sha256).digest()
    out, block = b"", b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.new(extracted, block + info + bytes([number]), hashlib.sha256).digest()
        out += block
    return out[:length]


def _root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, as it is written: split at the largest power of two below the size."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _root(leaves[:split]) + _root(leaves[split:])).digest()


def test_our_hkdf_passes_the_rfcs_first_test_vector() -> None:
    okm = _hkdf(b"\x0b" * 22, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"), 42, bytes.fromhex("000102030405060708090a0b0c"))
    assert okm.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


@given(KEYS, st.text(max_size=40))
def test_derived_keys_and_commitments_follow_rfc_5869(key: bytes, text: str) -> None:
    info = text.encode("utf-8", "surrogatepass")
    if info.decode("utf-8", "replace") != text:
        return
    assert commitments.derive(key, text) == _hkdf(key, info, 32)
    assert commitments.commitment(key, text) == hmac.new(_hkdf(key, info, 32), info, hashlib.sha256).digest()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_root_is_rfc_6962s(leaves: list[bytes]) -> None:
    assert commitments.merkle_root(leaves) == _root(leaves)


def test_known_answers_of_certificate_transparency() -> None:
    """The reference implementation's vectors for 1 and 8 leaves."""
    leaves = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
    leaves.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
    first = "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    eighth = "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    assert commitments.merkle_root(leaves[:1]).hex() == first
    assert commitments.merkle_root(leaves).hex() == eighth


@given(KEYS, st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), unique=True, max_size=12))
def test_a_root_does_not_tell_the_order_of_the_ids_but_depends_on_key_and_ids(key: bytes, ids: list[str]) -> None:
    root = commitments.commitment_root(key, ids)
    assert commitments.commitment_root(key, ids[::-1]) == root
    assert commitments.commitment_root(key, [*ids, "one more, longer"]) != root
    if ids:
        assert commitments.commitment_root(bytes(b ^ 1 for b in key), ids) != root


@pytest.mark.parametrize(("one", "other"), [(("d", "ab"), ("da", "b")), (("d", "a"), ("e", "a"))])
def test_suppression_tokens_tell_datasets_and_ids_apart(one: tuple[str, str], other: tuple[str, str]) -> None:
    key = commitments.suppression_key(bytes(32))
    assert commitments.suppression_token(key, *one) != commitments.suppression_token(key, *other)
    assert commitments.suppression_token(key, *one) == commitments.suppression_token(key, *one)


def test_keys_for_different_ends_differ() -> None:
    master = bytes(range(32))
    assert commitments.suppression_key(master) != commitments.derive(master, "idempotency")
    assert commitments.fingerprint(master, b"a") != commitments.fingerprint(master, b"b")
    assert commitments.new_request_key() != commitments.new_request_key()
