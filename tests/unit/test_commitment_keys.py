"""Intake derives a request's per-id keys by hand, for speed; the library's HKDF must say the same."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from service.evidence.commitments import KEY_BYTES, commitment, commitment_root, derive, merkle_root

REQUEST_KEYS = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
SAMPLE_IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


@given(REQUEST_KEYS, SAMPLE_IDS)
def test_a_commitment_is_keyed_by_hkdf_over_the_id(key: bytes, sample_id: str) -> None:
    assert commitment(key, sample_id) == hmac.digest(derive(key, sample_id), sample_id.encode(), "sha256")


@given(REQUEST_KEYS, st.lists(SAMPLE_IDS, max_size=20, unique=True))
def test_the_root_is_over_the_sorted_commitments(key: bytes, sample_ids: list[str]) -> None:
    assert commitment_root(key, sample_ids) == merkle_root(sorted(commitment(key, i) for i in sample_ids))
