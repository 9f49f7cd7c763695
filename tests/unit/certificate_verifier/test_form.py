"""A bundle has one form: canonical JSON, the schema's shape, DSSE envelopes, as others read them too."""

import base64
import copy
import json
import math
import sys
from typing import Any

import jsonschema
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from service.evidence import verify
from service.evidence.verify import Refused
from tests import certificate_cases as cases
from tests.unit.certificate_verifier.bundles import KEY, edited, refusal, signed_again


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"{}", b"{", b"\xff", b'{"a":1,"a":1}', b"NaN", b"1e400", b"[" * 100_000, b'"\\ud800"',
        json.dumps(json.loads(cases.made())).encode(), cases.made() + b"\n", b"\xef\xbb\xbf" + cases.made(),
        b"9007199254740993", b"1.0",
    ],
)  # fmt: skip
def test_what_is_not_a_canonical_bundle_is_refused(raw: bytes) -> None:
    assert refusal(raw).code in ("not_json", "not_canonical", "bad_shape")


def test_a_bundle_nested_too_deeply_is_refused_and_not_a_fault() -> None:
    def change(statement: Any) -> None:
        inner: Any = {}
        for _ in range(700):
            inner = {"a": inner}
        statement["predicate"]["buildDefinition"]["externalParameters"]["options"] = inner

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(6000)  # for the making of it alone
    try:
        raw = signed_again(cases.made(), change, part="provenance")
    finally:
        sys.setrecursionlimit(limit)
    assert refusal(raw).code in ("not_json", "not_canonical")


def test_a_second_base64_form_of_the_same_bytes_is_refused() -> None:
    def change(document: Any) -> None:
        signature = document["envelopes"]["certificate"]["signatures"][0]
        *most, last = signature["sig"].removesuffix("==")
        signature["sig"] = "".join(most) + chr(ord(last) + 1) + "=="

    assert refusal(edited(cases.made(), change)).code == "bad_encoding"


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(JSON_VALUES)
def test_canonical_bytes_equal_those_of_an_independent_implementation(value: Any) -> None:
    assert verify.canonical(value) == rfc8785.dumps(value)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1074, 1023).map(lambda e: math.ldexp(1.0, e)))
@settings(max_examples=500)
def test_numbers_are_written_as_ecmascript_does(value: float) -> None:
    assert verify.canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e21, "1e+21"), (1e20, "100000000000000000000"), (1e-6, "0.000001"), (1e-7, "1e-7"), (-0.0, "0"),
     (5e-324, "5e-324"), (333333333.33333329, "333333333.3333333"), (1.5e300, "1.5e+300")],
)  # fmt: skip
def test_numbers_of_the_specification(value: float, text: str) -> None:
    assert verify.canonical(value).decode() == text


def test_a_number_beyond_two_to_the_53_is_read_back_as_it_was_written() -> None:
    raw = rfc8785.dumps({"loss": 1e17, "less": -3e20})
    assert raw == b'{"less":-300000000000000000000,"loss":100000000000000000}'
    assert verify.read_canonical(raw, "it") == {"loss": 1e17, "less": -3e20}
    with pytest.raises(Refused, match="not in canonical bytes"):
        verify.read_canonical(b"9007199254740993", "it")
    with pytest.raises(Refused, match="cannot be written canonically"):
        verify.read_canonical(b"9" * 400, "it")


def _spoilt_documents() -> list[Any]:
    """The predicate with each of its members, at any depth, taken away or replaced."""
    payload = json.loads(cases.made())["envelopes"]["certificate"]["payload"]
    whole = json.loads(base64.b64decode(payload))["predicate"]
    found = [whole]

    def walk(place: list[Any]) -> None:
        node = whole
        for step in place:
            node = node[step]
        steps = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for step in steps:
            for value in (None, 1, -1, 1.5, True, "x", "", [], {}, ["x"], {"x": 1}, "0" * 64, "2026-01-01T00:00:00Z"):
                changed = copy.deepcopy(whole)
                inner = changed
                for at in place:
                    inner = inner[at]
                inner[step] = value
                found.append(changed)
            changed = copy.deepcopy(whole)
            inner = changed
            for at in place:
                inner = inner[at]
            del inner[step]
            found.append(changed)
            walk([*place, step])

    walk([])
    return found


def test_the_check_of_shape_agrees_with_json_schema() -> None:
    """The verifier reads a part of JSON Schema by itself; a full implementation says the same of every document."""
    jsonschema.Draft202012Validator.check_schema(verify.PREDICATE_SCHEMA)
    validator = jsonschema.Draft202012Validator(verify.PREDICATE_SCHEMA)
    documents = _spoilt_documents()
    verdicts = []
    for document in documents:
        try:
            verify.check_shape(document, verify.PREDICATE_SCHEMA)
            verdicts.append(True)
        except Refused:
            verdicts.append(False)
    assert verdicts == [validator.is_valid(document) for document in documents]
    assert verdicts[0]
    assert verdicts.count(False) > 1000


@pytest.mark.parametrize("part", sorted(verify.PREDICATES))
def test_the_envelopes_are_dsse_by_an_independent_implementation(part: str) -> None:
    envelope = Envelope.from_dict(json.loads(cases.made())["envelopes"][part])
    key = SSlibKey.from_crypto(KEY.private.public_key(), keyid=cases.sha(KEY.public_key))
    assert list(envelope.verify([key], 1)) == [cases.sha(KEY.public_key)]
    assert json.loads(envelope.payload)["predicateType"] == verify.PREDICATES[part]
