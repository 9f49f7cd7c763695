"""The RFC 6962 / RFC 9162 Merkle tree: roots, proofs, their verification, and the tiles it is kept in. Pure.

A *node* is the root of a perfect subtree: ``(level, index)`` covers the leaves ``index·2^level`` up to
``(index + 1)·2^level``. A *tile* (C2SP tlog-tiles, height 8) holds up to 256 nodes of every eighth level side by
side: tile ``(L, N)`` holds nodes ``(8L, 256N)`` and on. All other nodes are computed from tiles, so that a proof
reads a handful of them however many leaves there are.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

HEIGHT = 8
WIDTH = 1 << HEIGHT
HASH_BYTES = 32
TILE_BYTES = WIDTH * HASH_BYTES
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = Callable[[int, int], bytes]
Tile = tuple[int, int]


class InvalidProof(ValueError):
    """A proof does not show what it is said to show; the message names what is wrong."""


def hash_leaf(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def hash_children(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(size: int, node: Node) -> bytes:
    """Return MTH (RFC 6962 §2.1) of the first ``size`` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_path(seq: int, size: int, node: Node) -> list[bytes]:
    """Return PATH (RFC 6962 §2.1.1) of leaf ``seq`` in the tree of ``size`` leaves, nearest the leaf first."""
    if not 0 <= seq < size:
        raise ValueError(f"leaf {seq} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if seq < middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int, node: Node) -> list[bytes]:
    """Return PROOF (RFC 6962 §2.1.2) that the tree of ``new`` leaves begins with that of ``old``."""
    if not 0 < old <= new:
        raise ValueError(f"no tree of {new} leaves begins with one of {old}")
    path: list[bytes] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_range_root(middle, end, node))
            end = middle
        else:
            path.append(_range_root(start, middle, node))
            start = middle
    # What is left is a subtree of the old tree; where it is all of it, the verifier has its root already.
    return ([_range_root(start, end, node)] if start else []) + path[::-1]


def _split(count: int) -> int:
    """Return the largest power of two smaller than ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, end: int, node: Node) -> bytes:
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return node(level, start >> level)
    middle = start + _split(count)
    return hash_children(_range_root(start, middle, node), _range_root(middle, end, node))


def verify_inclusion(leaf: bytes, *, seq: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check a path from a leaf's hash by RFC 9162 §2.1.3.2. Raises InvalidProof."""
    if not 0 <= seq < size:
        raise InvalidProof(f"leaf {seq} is not in a tree of {size}")
    fn, sn, found = seq, size - 1, leaf
    for step in path:
        if sn == 0:
            raise InvalidProof("the inclusion path is too long")
        if fn & 1 or fn == sn:
            found = hash_children(step, found)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            found = hash_children(found, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise InvalidProof("the inclusion path is too short")
    if found != root:
        raise InvalidProof(f"the inclusion path of entry {seq} does not lead to the root")


def verify_consistency(*, old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check by RFC 9162 §2.1.4.2 that one tree begins with the other. Raises InvalidProof."""
    if not 0 < old <= new:
        raise InvalidProof(f"a tree of {new} leaves does not begin with one of {old}")
    if old == new:
        if path or old_root != new_root:
            raise InvalidProof("two trees of one size differ")
        return
    # A perfect old tree is itself the first step of the way up, and the path leaves it out.
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    if not steps:
        raise InvalidProof("the consistency path is empty")
    older, newer = _climbed(old - 1, new - 1, steps)
    if older != old_root:
        raise InvalidProof(f"the consistency path does not lead to the root of the older tree ({old} leaves)")
    if newer != new_root:
        raise InvalidProof(f"the consistency path does not lead to the root of the newer tree ({new} leaves)")


def _climbed(fn: int, sn: int, steps: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the roots of both trees that the steps lead to; ``fn`` and ``sn`` are their last leaves."""
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    older = newer = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise InvalidProof("the consistency path is too long")
        if fn & 1 or fn == sn:
            older, newer = hash_children(step, older), hash_children(step, newer)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            newer = hash_children(newer, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise InvalidProof("the consistency path is too short")
    return older, newer


def tile_of(level: int, index: int) -> Tile:
    """Return the tile that a node is computed from."""
    return level // HEIGHT, (index << level % HEIGHT) // WIDTH


def node_of_tiles(tiles: Mapping[Tile, bytes]) -> Node:
    """Return a node function that reads these tiles. It raises KeyError for a tile that is not there or too short."""

    def node(level: int, index: int) -> bytes:
        place = tile_of(level, index)
        count = 1 << level % HEIGHT
        first = (index << level % HEIGHT) % WIDTH
        hashes = tiles[place][HASH_BYTES * first : HASH_BYTES * (first + count)]
        if len(hashes) != HASH_BYTES * count:
            raise KeyError(place)
        return perfect_root(hashes)

    return node


def perfect_root(hashes: bytes) -> bytes:
    """Return the root over a power of two of node hashes that lie side by side."""
    while len(hashes) > HASH_BYTES:
        pairs = range(0, len(hashes), 2 * HASH_BYTES)
        hashes = b"".join(hashlib.sha256(b"\x01" + hashes[i : i + 2 * HASH_BYTES]).digest() for i in pairs)
    return hashes


def tiles_read(ask: Callable[[Node], object]) -> set[Tile]:
    """Return which tiles ``ask`` reads through the node function it is given; what it computes is thrown away."""
    places: set[Tile] = set()

    def note(level: int, index: int) -> bytes:
        places.add(tile_of(level, index))
        return b""

    ask(note)
    return places


def edge(size: int) -> dict[int, Tile]:
    """Return the unfinished tile of each level that has one, in a tree of ``size`` leaves."""
    found: dict[int, Tile] = {}
    level, count = 0, size
    while count:
        if count % WIDTH:
            found[level] = (level, count // WIDTH)
        level, count = level + 1, count // WIDTH
    return found


def extended(size: int, unfinished: Mapping[Tile, bytes], leaves: Iterable[bytes]) -> dict[Tile, bytes]:
    """Return every tile that changes when these leaf hashes follow the first ``size``.

    ``unfinished``: the tiles that `edge` names. Raises ValueError if one is not as wide as the size says.
    """
    changed: dict[Tile, bytes] = {}
    level, count, more = 0, size, b"".join(leaves)
    while more:
        index, width = divmod(count, WIDTH)
        begun = unfinished.get((level, index), b"")
        if len(begun) != HASH_BYTES * width:
            raise ValueError(f"tile {index} of level {level} holds {len(begun)} bytes where {width} hashes belong")
        row = begun + more
        tiles = [row[i : i + TILE_BYTES] for i in range(0, len(row), TILE_BYTES)]
        changed |= {(level, index + i): tile for i, tile in enumerate(tiles)}
        more = b"".join(perfect_root(tile) for tile in tiles if len(tile) == TILE_BYTES)
        level, count = level + 1, count // WIDTH
    return changed
