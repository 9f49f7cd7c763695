"""An audit leaf's bytes: RFC 8785 JSON, and RFC 6962's prefix before hashing."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evidence import leaf
from service.evidence.leaf import canonical, leaf_hash

ENTRY = {
    "seq": 7,
    "time": "2024-01-01T00:00:00.000000Z",
    "actor": "key_1",
    "action": "request.accepted",
    "subject": "deletion-request/r",
    "payload": {"z": None, "a": [1, 2.5], "name": "café"},
}


def test_a_leaf_is_the_hash_of_these_very_bytes() -> None:
    text = (
        '{"action":"request.accepted","actor":"key_1","payload":{"a":[1,2.5],"name":"café","z":null},"seq":7,'
        '"subject":"deletion-request/r","time":"2024-01-01T00:00:00.000000Z"}'
    )
    assert canonical(ENTRY) == text.encode()
    assert leaf_hash(ENTRY) == hashlib.sha256(b"\x00" + text.encode()).digest()


def test_the_order_of_fields_does_not_matter_and_each_field_does() -> None:
    assert leaf_hash(dict(reversed(ENTRY.items()))) == leaf_hash(ENTRY)
    for field in ENTRY:
        assert leaf_hash({**ENTRY, field: "other"}) != leaf_hash(ENTRY)


def test_numbers_are_written_as_ecmascript_does_and_names_sorted_by_utf_16() -> None:
    document = {"\U0001f600": 1e21, "\ufb33": 0.000001, "a": 1.0, "b": 1e-7}
    assert canonical(document).decode() == '{"a":1,"b":1e-7,"\U0001f600":1e+21,"\ufb33":0.000001}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53 + 1, {1: 2}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".*"):
        canonical({"payload": value})


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    texts=st.fixed_dictionaries(dict.fromkeys(("time", "actor", "action", "subject"), TEXT)),
    seq=st.integers(0, 2**53 - 1),
    payload=st.dictionaries(TEXT, st.one_of(st.none(), st.integers(-9, 9), TEXT, st.lists(TEXT))),
)
def test_an_entry_put_together_from_its_fields_is_its_canonical_form(
    texts: dict[str, str], seq: int, payload: dict[str, object]
) -> None:
    made = leaf.entry_bytes(seq=seq, payload=leaf.payload_bytes(payload), **texts)
    assert made == canonical({**texts, "seq": seq, "payload": payload})


def test_a_payload_too_long_for_an_entry_bundle_is_committed_to_by_its_digest() -> None:
    policy = {"bounds": ["x" * 100] * 900}
    short = json.loads(leaf.payload_bytes({"dataset": "d", "policy": policy}))
    data = canonical(policy)
    assert short == {
        "dataset": "d",
        "policy": {"omitted_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
    }
    many = {f"name-{i}": "x" * 900 for i in range(100)}
    whole = canonical(many)
    assert json.loads(leaf.payload_bytes(many)) == {
        "omitted_bytes": len(whole),
        "sha256": hashlib.sha256(whole).hexdigest(),
    }


def test_the_longest_entry_fits_a_bundle() -> None:
    longest = {"time": "t" * 32, "actor": "\x01" * 100, "action": "\x01" * 64, "subject": "\x01" * 300}
    payload = {"x": "y" * (leaf.MAX_PAYLOAD_BYTES - 8)}
    assert len(leaf.payload_bytes(payload)) == leaf.MAX_PAYLOAD_BYTES
    made = leaf.entry_bytes(seq=2**53 - 1, payload=leaf.payload_bytes(payload), **longest)
    assert len(made) <= leaf.MAX_ENTRY_BYTES
