"""Everything that lies under a folder that a running service writes to."""

from pathlib import Path


def contents(folder: Path) -> dict[Path, bytes]:
    """Return each file's bytes. One that goes meanwhile, as a message of the broker's does, is left out."""
    found: dict[Path, bytes] = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[path] = path.read_bytes()
        except FileNotFoundError:
            continue
    return found
