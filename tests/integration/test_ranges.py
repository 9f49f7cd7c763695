"""Range and If-Range against RFC 9110, whose rules are written here again, without the service's code."""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import factories
from tests.stack import Stack, running

SIZE = 4096


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("ranges"), worker=False, rate_limit_downloads="") as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        found.keys["bytes"] = found.client.get("/v1/models/m/versions/1/weights").content.hex()
        yield found


def _digits(text: str) -> bool:
    return text != "" and all(c in "0123456789" for c in text)


def _meaning(value: str, size: int) -> list[tuple[int, int]] | None:
    """Return the (first, last) each range-spec names, unsatisfiable ones left out; None: not a valid bytes range."""
    unit, equals, rest = value.partition("=")
    if unit.lower() != "bytes" or not equals:
        return None
    found = []
    for spec in rest.split(","):
        first, dash, last = spec.strip(" \t").partition("-")
        if not dash or not (first or last) or (first and not _digits(first)) or (last and not _digits(last)):
            return None
        if first and last and int(last) < int(first):
            return None
        if not first:  # the last so many
            if int(last) > 0:
                found.append((max(0, size - int(last)), size - 1))
        elif int(first) < size:
            found.append((int(first), min(int(last), size - 1) if last else size - 1))
    return found


NUMBERS = st.one_of(st.integers(0, SIZE + 10), st.sampled_from([SIZE - 1, SIZE, 2**31, 2**63, 10**17])).map(str)
SPEC = st.tuples(st.one_of(st.just(""), NUMBERS), st.just("-"), st.one_of(st.just(""), NUMBERS)).map("".join)
LIST = st.lists(SPEC, min_size=1, max_size=4).map(", ".join)
ODD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
RANGES = st.one_of(LIST.map("bytes={}".format), SPEC.map("bytes={}".format), ODD.map("bytes={}".format), ODD)
TAGS = st.sampled_from(["same", "weak", "other", "date", "odd", "none"])


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=RANGES, tag=TAGS)
def test_a_range_is_answered_as_rfc_9110_says(stack: Stack, value: str, tag: str) -> None:
    whole = bytes.fromhex(stack.keys["bytes"])
    own = f'"sha256:{hashlib.sha256(whole).hexdigest()}"'
    if_range = {
        "same": own, "weak": f"W/{own}", "other": '"x"', "date": "Wed, 21 Oct 2015 07:28:00 GMT", "odd": "x",
    }.get(tag)  # fmt: skip
    headers = {"Range": value.strip(), **({"If-Range": if_range} if if_range else {})}
    answer = stack.client.get("/v1/models/m/versions/1/weights", headers=headers)
    applies = tag in ("same", "none")
    named = _meaning(value.strip(), SIZE) if applies else None
    if named is None:
        assert (answer.status_code, answer.content) == (200, whole), value
    elif answer.status_code == 206:
        _check_parts(answer, named, whole)
    elif answer.status_code == 416:
        assert answer.headers["content-range"] == f"bytes */{SIZE}"
        assert named == [], value
    else:
        # A server may ignore Range (RFC 9110 §14.2); then it sends everything.
        assert (answer.status_code, answer.content) == (200, whole), value


def _check_parts(answer: httpx.Response, named: list[tuple[int, int]], whole: bytes) -> None:
    kind: Any = answer.headers["content-type"]
    wanted = {position for first, last in named for position in range(first, last + 1)}
    got: set[int] = set()
    if not kind.startswith("multipart/byteranges"):
        got |= _place(answer.headers["content-range"], answer.content, whole)
    else:
        boundary = kind.partition("boundary=")[2].strip('"').encode()
        for part in answer.content.split(b"--" + boundary)[1:-1]:
            head, _, body = part.partition(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n")
            told = next(
                line.split(b":", 1)[1] for line in head.splitlines() if line.lower().startswith(b"content-range:")
            )
            got |= _place(told.decode().strip(), body.removesuffix(b"\r\n").removesuffix(b"\n"), whole)
    assert got == wanted


def _place(content_range: str, body: bytes, whole: bytes) -> set[int]:
    unit, _, rest = content_range.partition(" ")
    span, _, size = rest.partition("/")
    first, _, last = span.partition("-")
    assert (unit, int(size)) == ("bytes", SIZE)
    expected = whole[int(first) : int(last) + 1]
    assert body[: len(expected)] == expected
    return set(range(int(first), int(last) + 1))
