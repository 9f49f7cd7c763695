"""A wrapped key opens under the same master key and for the same request, and else not."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from service.evidence.commitments import derive
from service.evidence.key_wrapping import WRAPPED_BYTES, CannotUnwrap, unwrap, wrap, wrapping_key

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, KEYS, st.text(max_size=40))
def test_what_was_wrapped_is_unwrapped(key: bytes, request_key: bytes, request_id: str) -> None:
    wrapped = wrap(key, request_key, request_id)
    assert len(wrapped) == WRAPPED_BYTES
    assert request_key not in wrapped
    assert unwrap(key, wrapped, request_id) == request_key


def test_a_wrapped_key_is_aes_256_gcm_with_the_request_as_associated_data() -> None:
    wrapped = wrap(b"k" * 32, b"r" * 32, "req_1")
    assert AESGCM(b"k" * 32).decrypt(wrapped[:12], wrapped[12:], b"req_1") == b"r" * 32


@given(st.integers(0, WRAPPED_BYTES - 1), st.integers(0, 7))
def test_any_bit_changed_is_refused(place: int, bit: int) -> None:
    wrapped = bytearray(wrap(b"k" * 32, b"r" * 32, "req_1"))
    wrapped[place] ^= 1 << bit
    with pytest.raises(CannotUnwrap):
        unwrap(b"k" * 32, bytes(wrapped), "req_1")


def test_another_request_another_master_key_and_another_length_are_refused() -> None:
    wrapped = wrap(b"k" * 32, b"r" * 32, "req_1")
    for key, value, request_id in (
        (b"k" * 32, wrapped, "req_2"),
        (b"K" * 32, wrapped, "req_1"),
        (b"k" * 32, wrapped[:-1], "req_1"),
        (b"k" * 32, b"", "req_1"),
    ):
        with pytest.raises(CannotUnwrap):
            unwrap(key, value, request_id)


def test_the_wrapping_key_is_its_own() -> None:
    master = bytes(range(32))
    assert wrapping_key(master) == derive(master, "request keys")
    assert wrapping_key(master) not in (derive(master, "suppression list"), derive(master, "idempotency"), master)


def test_the_same_key_is_wrapped_otherwise_each_time() -> None:
    assert wrap(b"k" * 32, b"r" * 32, "req_1") != wrap(b"k" * 32, b"r" * 32, "req_1")
