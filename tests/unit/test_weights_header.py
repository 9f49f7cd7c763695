"""A safetensors header is read from bytes that anybody may have sent: fine, or InvalidRequest, nothing else."""

import contextlib
import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.weights_header import check, content_digest
from tests.factories import safetensors

GOOD = safetensors(weight=[1.0, 2.0, 3.0], bias=[4.0])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ANY_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


def _with_header(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _check(folder: Path, content: bytes) -> Any:
    (folder / "weights").write_bytes(content)
    return check(folder / "weights")


def _never_anything_else(folder: Path, content: bytes) -> None:
    found: Any = None
    refusal = None
    try:
        found = _check(folder, content)
    except InvalidRequest as error:
        refusal = error
    assert found if refusal is None else refusal.code in ("not_safetensors", "truncated")


def test_a_whole_file_tells_its_tensors(tmp_path: Path) -> None:
    assert _check(tmp_path, GOOD) == {"weight": ("F32", (3,)), "bias": ("F32", (1,))}


@ANY_FOLDER
@given(st.data())
def test_mutated_bytes_are_fine_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    _never_anything_else(tmp_path, bytes(content[:cut]) + data.draw(st.binary(max_size=4)))


@ANY_FOLDER
@given(JSON)
def test_any_json_header_is_fine_or_refused(tmp_path: Path, header: object) -> None:
    _never_anything_else(tmp_path, _with_header(header))


@ANY_FOLDER
@given(JSON, JSON, JSON)
def test_any_tensor_entry_is_fine_or_refused(tmp_path: Path, dtype: object, shape: object, offsets: object) -> None:
    _never_anything_else(tmp_path, _with_header({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}))
    _never_anything_else(tmp_path, _with_header({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}))


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_every_prefix_is_refused(tmp_path: Path, cut: int) -> None:
    with pytest.raises(InvalidRequest):
        _check(tmp_path, GOOD[:cut])


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1] * 1000 + [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]},
        {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0]},
        [1, 2],
    ],
)
def test_an_entry_that_is_no_tensor_is_refused(tmp_path: Path, entry: object) -> None:
    with pytest.raises(InvalidRequest):
        _check(tmp_path, _with_header({"w": entry}))


def test_numbers_beyond_floats_are_refused(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}'
    with pytest.raises(InvalidRequest):
        _check(tmp_path, _with_header(header))


def test_overlapping_tensors_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    with pytest.raises(InvalidRequest, match="overlap"):
        _check(tmp_path, _with_header({"a": entry, "b": entry}))


def test_a_deeply_nested_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        _check(tmp_path, _with_header(b"[" * 100_000))


def test_metadata_is_no_tensor(tmp_path: Path) -> None:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert set(_check(tmp_path, _with_header({"__metadata__": {"a": "b"}, "w": tensor}))) == {"w"}


def _content(content: bytes) -> str:
    return content_digest(io.BytesIO(content), size=len(content))


def test_the_content_digest_is_over_name_type_shape_and_bytes_in_the_order_of_names() -> None:
    """By hand: for each tensor its JSON line, then the SHA-256 of its bytes."""
    whole = b""
    for name, values in (("bias", [4.0]), ("weight", [1.0, 2.0, 3.0])):
        line = f'["{name}", "F32", [{len(values)}]]\n'.encode()
        whole += line + hashlib.sha256(struct.pack(f"<{len(values)}f", *values)).digest()
    assert _content(GOOD) == hashlib.sha256(whole).hexdigest()


def _saved(order: list[str], metadata: dict[str, str] | None) -> bytes:
    """Return the tensors of GOOD in another order, with other metadata."""
    raw = {"weight": struct.pack("<3f", 1.0, 2.0, 3.0), "bias": struct.pack("<f", 4.0)}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name in order:
        end = at + len(raw[name])
        header[name] = {"dtype": "F32", "shape": [len(raw[name]) // 4], "data_offsets": [at, end]}
        at = end
    return _with_header(header, b"".join(raw[name] for name in order))


@pytest.mark.parametrize("order", [["weight", "bias"], ["bias", "weight"]])
@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_same_tensors_saved_another_way_have_the_same_content(
    order: list[str], metadata: dict[str, str] | None
) -> None:
    assert _content(_saved(order, metadata)) == _content(GOOD)


@pytest.mark.parametrize(
    "other",
    [
        safetensors(weight=[1.0, 2.0, 3.0], bias=[4.000001]),
        safetensors(weights=[1.0, 2.0, 3.0], bias=[4.0]),
        safetensors(weight=[1.0, 2.0], bias=[3.0, 4.0]),
        safetensors(weight=[1.0, 2.0, 3.0]),
    ],
)
def test_other_tensors_have_another_content(other: bytes) -> None:
    assert _content(other) != _content(GOOD)


@given(st.binary(max_size=200))
def test_the_content_of_any_bytes_is_found_or_refused(content: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        _content(content)
