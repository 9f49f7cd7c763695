"""Files of a backup: read in pieces, and written so that only their owner reads them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def chunks(file: Any) -> Iterator[bytes]:
    while data := file.read(CHUNK):
        yield data


def write_private(path: Path, content: "bytes | Iterator[bytes]") -> None:
    """Make a file that is not there yet, down to the disk. Raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for data in [content] if isinstance(content, bytes) else content:
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
