"""Sets of places in a dataset, packed for one column: a bit for each place, compressed. Pure."""

import zlib
from collections.abc import Iterable

_LEVEL = 1  # most bits of most sets are ones


def pack(positions: Iterable[int]) -> bytes:
    """Return the set, exactly."""
    return _packed(bytearray(), positions)


def with_more(packed: bytes, positions: Iterable[int]) -> bytes:
    """Return the set with these places too."""
    return _packed(bytearray(zlib.decompress(packed)), positions)


def _packed(bits: bytearray, positions: Iterable[int]) -> bytes:
    for position in positions:
        byte = position >> 3
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << (position & 7)
    return zlib.compress(bits, _LEVEL)


def holds_any(packed: bytes, positions: Iterable[int]) -> bool:
    """Say whether one of the places is in the set."""
    bits = zlib.decompress(packed)
    end = 8 * len(bits)
    return any(position < end and bits[position >> 3] >> (position & 7) & 1 for position in positions)
