"""Files that come into being whole and once: written under another name, then given their own.

A hard link does both. Network folders (SMB, some in user space) have none; there a rename keeps the file whole, and a
lock on the folder keeps two processes of this machine from each giving the name. Two machines that share such a folder
are not kept from it.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

# What such folders say to a hard link.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def name_once(scratch: Path, target: Path) -> None:
    """Give a whole file its name; ``scratch`` is gone then, whatever happens. Raises FileExistsError."""
    try:
        os.link(scratch, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _move(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def _move(scratch: Path, target: Path) -> None:
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # one that cannot be locked either is used without
            fcntl.flock(folder, fcntl.LOCK_EX)
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "the file is there already")
        scratch.replace(target)
    finally:
        os.close(folder)
