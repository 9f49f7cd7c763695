"""What the C library's allocator keeps of the memory that was freed."""

import ctypes

# From glibc's malloc.h.
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8
ARENAS, OWN_MAPPING_BYTES = 2, 128 << 10


def give_back_what_is_freed() -> bool:
    """Have a process of many threads that runs for months not grow; say whether the allocator took it.

    glibc lets up to eight arenas a core come up, each with gaps of its own. And with each large block that is freed it
    raises the size from which a block is mapped apart, up to 32 MiB, so that answers of some megabytes leave gaps too:
    named once, that size stays. To be called before there are threads; not where tensors are computed, which would pay
    for a mapping each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        return False
    return all(
        mallopt(name, value) == 1 for name, value in ((_ARENA_MAX, ARENAS), (_MMAP_THRESHOLD, OWN_MAPPING_BYTES))
    )
