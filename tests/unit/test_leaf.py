"""An audit leaf's bytes: RFC 8785 JSON, and RFC 6962's prefix before hashing."""

import hashlib

import pytest

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
