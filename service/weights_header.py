"""Reads a safetensors file without loading a tensor: is it one, is it whole, and which tensors does it hold?"""

import hashlib
import json
import struct
from pathlib import Path
from typing import IO, Any

from service.errors import Fault, InvalidRequest

# Parsed in the API process, in up to forty times as much memory; ten thousand tensors take a tenth of it.
MAX_HEADER_BYTES = 10 * 2**20
MAX_DIMENSIONS = 32
_CHUNK = 1 << 20
_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


Tensors = dict[str, tuple[str, tuple[int, ...]]]


def check(path: Path) -> Tensors:
    """Return name -> (dtype, shape) of every tensor. Raises InvalidRequest, naming what is wrong."""
    with path.open("rb") as file:
        return _read(file, size=path.stat().st_size)[0]


def content_digest(file: IO[bytes], *, size: int) -> str:
    """Return the SHA-256 of the tensors: their names, types, shapes and bytes.

    It is the same whatever the order of the tensors in the file and whatever else the header says. One value that
    differs in its last bit makes it another, as does another name or type. Raises InvalidRequest.
    """
    tensors, header, start = _read(file, size=size)
    whole = hashlib.sha256()
    for name in sorted(tensors):
        dtype, shape = tensors[name]
        first, end = header[name]["data_offsets"]
        file.seek(start + first)
        whole.update(json.dumps([name, dtype, shape]).encode() + b"\n" + _digest_of(file, end - first))
    return whole.hexdigest()


def _digest_of(file: IO[bytes], count: int) -> bytes:
    found = hashlib.sha256()
    while count:
        chunk = file.read(min(count, _CHUNK))
        if not chunk:
            raise _refuse("truncated", "The file ends before its last tensor.")
        found.update(chunk)
        count -= len(chunk)
    return found.digest()


def _read(file: IO[bytes], *, size: int) -> tuple[Tensors, dict[str, Any], int]:
    """Return the tensors, the header without its metadata, and where the data begins."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise _refuse("not_safetensors", "The body is shorter than a safetensors header.")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise _refuse("not_safetensors", f"The safetensors header has over {MAX_HEADER_BYTES} bytes.")
    if length > size - 8:
        raise _refuse("not_safetensors", "The first eight bytes are not the length of a safetensors header.")
    header = _parse(file.read(length))
    return _check_tensors(header, data_bytes=size - 8 - length), header, 8 + length


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError):  # of bytes that are no UTF-8, too
        raise _refuse("not_safetensors", "The safetensors header is not JSON.") from None
    if not isinstance(header, dict):
        raise _refuse("not_safetensors", "The safetensors header is not a JSON object.")
    header.pop("__metadata__", None)
    return header


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object. Raises ValueError for a name that comes twice: readers differ in which one they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def _check_tensors(header: dict[str, Any], *, data_bytes: int) -> Tensors:
    found: Tensors = {}
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape = str(entry["dtype"]), _naturals(entry["shape"])
            start, end = _naturals(entry["data_offsets"])
            count = _SIZES[dtype]
        except (KeyError, TypeError, ValueError):
            raise _refuse("not_safetensors", f"The header's entry {name[:80]!r} is not a tensor's.") from None
        for extent in shape:
            count *= extent
        if end - start != count:
            raise _refuse("not_safetensors", f"Tensor {name[:80]!r} does not fill the bytes it claims.")
        spans.append((start, end))
        found[name] = (dtype, shape)
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise _refuse("not_safetensors", "The tensors overlap or leave holes.")
        at = end
    if not found:
        raise _refuse("not_safetensors", "The file holds no tensor.")
    if at != data_bytes:
        raise _refuse("truncated", f"The header tells of {at} bytes of tensors; {data_bytes} came.")
    return found


def _naturals(given: Any) -> tuple[int, ...]:
    """Return a JSON list of natural numbers below 2^63 as a tuple. Raises ValueError."""
    if not isinstance(given, list) or len(given) > MAX_DIMENSIONS:
        raise ValueError
    if not all(type(n) is int and 0 <= n < 2**63 for n in given):
        raise ValueError
    return tuple(given)


def _refuse(code: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code=code, faults=[Fault("", code, None, detail)])
