"""Sends weights from a store that is no folder: a part is read as it is sent, and nothing is kept on this disk."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO

import structlog
from fastapi.responses import StreamingResponse

from service.artifacts import CHUNK, ArtifactStore
from service.errors import Unavailable

log = structlog.get_logger()


class DigestDiffers(Exception):
    """The stored bytes are not those the digest names; the answer is cut before its last part."""


def answer(
    store: ArtifactStore, sha256: str, size: int, *, byte_range: tuple[int, int] | None, headers: dict[str, str]
) -> StreamingResponse:
    """Return the answer with the bytes, or with those from the first to before the second of the range.

    Raises NotFound, Unavailable. A whole file is checked on the way: its last part is sent once all of it was right.
    """
    first, end = byte_range or (0, size)
    stack = ExitStack()
    try:
        file = stack.enter_context(store.open(sha256))
        file.seek(first)
        head = file.read(min(CHUNK, end - first))  # read before the answer begins, so that a refusal can be told
    except OSError as error:
        stack.close()
        log.error("weights.not_read", error=type(error).__name__)
        raise unreachable() from error
    length = {"Content-Length": str(end - first), "Accept-Ranges": "bytes"}
    parts = _rest(stack, file, head, end - first)
    if byte_range is None:
        return StreamingResponse(_checked(parts, sha256), headers=headers | length)
    part = {"Content-Range": f"bytes {first}-{end - 1}/{size}"}
    return StreamingResponse(parts, status_code=206, headers=headers | length | part)


def unreachable() -> Unavailable:
    """Return the error for a store that does not answer."""
    return Unavailable(
        "The artifact store does not answer; try again, and if it lasts tell the operator: `unlearn doctor` says more.",
        code="artifact_store_unavailable",
    )


def _rest(stack: ExitStack, file: IO[bytes], head: bytes, length: int) -> Iterator[bytes]:
    with stack:
        left = length - len(head)
        yield head
        while left and (chunk := file.read(min(CHUNK, left))):
            left -= len(chunk)
            yield chunk


def _checked(parts: Iterator[bytes], sha256: str) -> Iterator[bytes]:
    """Yield the parts, the last only if all together have the digest. Raises DigestDiffers."""
    digest, held = hashlib.sha256(), b""
    for part in parts:
        digest.update(part)
        if held:
            yield held
        held = part
    if digest.hexdigest() != sha256:
        raise DigestDiffers
    yield held
