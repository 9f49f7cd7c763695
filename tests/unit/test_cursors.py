"""Cursors: what was given comes back, and nothing else passes for one."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.schemas.common import decode_cursor, decode_number, encode_cursor

NO_HALVES = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")


@settings(derandomize=True)
@given(st.text(NO_HALVES))
def test_a_cursor_comes_back_as_it_was_given(value: str) -> None:
    assert decode_cursor(encode_cursor(value)) == value


@settings(max_examples=500, derandomize=True)
@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
@example("MTox")
@example("=")
@example("A" * 10_000)
@example("\ud800")
def test_any_other_text_is_refused(text: str) -> None:
    for decode in (decode_cursor, lambda given: decode_number(given, 0)):
        with pytest.raises(InvalidRequest) as refusal:
            decode(text)
        assert refusal.value.code == "invalid_cursor"
        assert refusal.value.faults[0].value is None


@settings(derandomize=True)
@given(st.integers(0, 10**17), st.integers(0, 60), st.characters(codec="ascii"))
def test_an_altered_cursor_is_refused(value: int, at: int, put: str) -> None:
    cursor = encode_cursor(value)
    altered = cursor[: at % len(cursor)] + put + cursor[at % len(cursor) + 1 :]
    if altered != cursor:
        with pytest.raises(InvalidRequest):
            decode_number(altered, 0)


@pytest.mark.parametrize("text", ["", "-1", "1" * 19, "٣", "²", "1e3", "0x1", " 1"])
def test_a_cursor_of_what_is_no_number_is_refused_where_a_number_is_due(text: str) -> None:
    with pytest.raises(InvalidRequest):
        decode_number(encode_cursor(text), 0)
