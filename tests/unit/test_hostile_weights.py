"""Safetensors headers made to mislead: refused by a stated reason, in little memory, as the library would or sooner."""

import io
import json
import multiprocessing
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load

from service import weights_header
from service.errors import InvalidRequest

MIB = 2**20
W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _file(header: bytes, data: bytes = bytes(8), *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _digest(content: bytes) -> str:
    return weights_header.content_digest(io.BytesIO(content), size=len(content))


TEXT = json.dumps({"w": W})
TWICE = f'{{"w": {json.dumps({**W, "data_offsets": [8, 8], "shape": [0]})}, "w": {json.dumps(W)}}}'


@pytest.mark.parametrize(
    "content",
    [
        _file(TEXT.encode("utf-16")),
        _file(TEXT.encode("utf-32")),
        _file(b"\xef\xbb\xbf" + TEXT.encode()),
        _file(TEXT.encode().replace(b"w", b"\xff")),
        _file(TWICE.encode()),
        _file(json.dumps({"w": {**W, "shape": [float("nan")]}}).encode()),
        _file(json.dumps({"w": {**W, "shape": [2.0]}}).encode()),
        _file(json.dumps({"w": {**W, "shape": [True, 2]}}).encode()),
        _file(json.dumps({"w": {**W, "shape": [-1, -2]}}).encode()),
        _file(json.dumps({"w": {**W, "shape": [2**62, 2**62, 0]}}).encode()),
        _file(json.dumps({"w": {**W, "data_offsets": [0, 2**63 - 1]}}).encode()),
        _file(json.dumps({"w": {**W, "data_offsets": [8, 0]}}).encode()),
        _file(json.dumps({"w": {**W, "data_offsets": [4, 12]}}).encode()),
        _file(json.dumps({"w": W, "v": W}).encode()),
        _file(json.dumps({"w": {**W, "shape": [1] * 40 + [2]}}).encode()),
        _file(b"[" * 100_000),
        _file(b'{"a":' * 100_000),
        _file(b"{}", length=2**64 - 1),
        _file(b"{}", length=2**63),
        _file(TEXT.encode(), length=len(TEXT) + 9),
    ],
)
def test_a_header_that_misleads_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        _digest(content)
    assert refusal.value.code in ("not_safetensors", "truncated")
    assert len(refusal.value.detail) < 200


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**64) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BOOL", "F16", "X", "", "f32"]),
        "shape": st.lists(st.integers(0, 4), max_size=3) | _JSON,
        "data_offsets": st.lists(st.integers(0, 24), min_size=2, max_size=2) | _JSON,
    }
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    header=st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), _ENTRY | _JSON, max_size=3),
    data=st.binary(max_size=24),
    lie=st.integers(-3, 3),
)
def test_what_is_taken_the_library_takes_too(header: Any, data: bytes, lie: int) -> None:
    """A file that this check lets pass and the library refuses is rejected by the worker later; none is let in so."""
    text = json.dumps(header).encode()
    content = _file(text, data, length=max(0, len(text) + lie))
    try:
        _digest(content)
    except InvalidRequest:
        return
    try:
        load(content)
    except SafetensorError:
        # `__metadata__` must map texts to texts, and the check leaves it alone.
        assert "__metadata__" in header


def _attempt(path: str, answer: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        weights_header.check(Path(path))
        told = "taken"
    except InvalidRequest as refusal:
        told = refusal.detail
    answer.send((told, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))


@pytest.mark.parametrize("entry", [b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},', b'"%d":[],'])
@pytest.mark.parametrize("size", [9 * MIB, 60 * MIB])
def test_a_header_of_many_tensors_takes_bounded_memory(tmp_path: Path, entry: bytes, size: int) -> None:
    count = size // (len(entry) + 4)
    header = b"{" + b"".join(entry % n for n in range(count)) + b'"x":1}'
    (tmp_path / "weights").write_bytes(_file(header))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_attempt, args=(str(tmp_path / "weights"), there))
    process.start()
    there.close()
    try:
        assert here.poll(90)
        told, growth = here.recv()
    finally:
        process.kill()
        process.join()
    assert ("over 10485760 bytes" in told) == (size > 10 * MIB)
    assert growth < 700 * MIB, f"{growth / MIB:.0f} MiB"
