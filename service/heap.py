"""What the C library's allocator keeps of the memory that was freed."""

import ctypes
from typing import Any

# From glibc's malloc.h.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
ARENAS, OWN_MAPPING_BYTES = 2, 128 << 10


def keep_little() -> bool:
    """Have a process of many threads that runs for months not grow; say whether the allocator took it.

    glibc lets up to eight arenas a core come up, each with gaps of its own. And with each large block that is freed it
    raises the size from which a block is mapped apart, up to 32 MiB, so that answers of some megabytes leave gaps too:
    named once, that size stays. To be called before there are threads; not where tensors are computed, which would pay
    for a mapping each time.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    options = ((_ARENA_MAX, ARENAS), (_MMAP_THRESHOLD, OWN_MAPPING_BYTES))
    return all(mallopt(name, value) == 1 for name, value in options)


def give_back() -> None:
    """Return whole free pages to the system, those between used ones too, which freeing alone does not."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
