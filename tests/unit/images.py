"""Image files that tests write: real ones, ones that claim to be huge, and links that lead out of the roots."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from workers import data
from workers.data.source import DataError


def encoded(value: int = 0, *, size: tuple[int, int] = (4, 5), mode: str = "RGB", form: str = "PNG") -> bytes:
    """Return an image of height and width `size` whose pixels count up from `value`."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = (np.arange(size[0] * size[1] * channels) + value).astype(np.uint8)
    file = io.BytesIO()
    Image.frombytes(mode, size[::-1], pixels.tobytes()).save(file, form)
    return file.getvalue()


def claiming(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep() -> bytes:
    """Return a PNG of 16 bits per channel."""
    file = io.BytesIO()
    Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 1000).save(file, "PNG")
    return file.getvalue()


def moved_out(link: Path, outside: Path) -> None:
    """Move a file or folder away and leave a link to it."""
    link.rename(outside)
    link.symlink_to(outside)


def refusal(source: dict[str, Any], root: Path) -> DataError:
    """Return how a source is refused; fails when it is not, or when the message names a sample."""
    with pytest.raises(DataError) as refused:
        data.read(source, roots=[root])
    assert "patient" not in str(refused.value)
    assert str(root) not in str(refused.value)
    return refused.value
