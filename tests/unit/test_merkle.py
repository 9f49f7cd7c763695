"""The Merkle tree against the published vectors, a recursive form written from RFC 6962, and pymerkle."""

import hashlib
from collections.abc import Sequence

import pymerkle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.evidence import merkle
from service.evidence.merkle import InvalidProof

# The leaves, roots and proofs of the Certificate Transparency reference tests.
LEAVES = [
    bytes.fromhex(each)
    for each in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
BIG = 70_000


def _leaf(text: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + text).digest()


def _mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word, over leaf hashes."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256(b"").digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + _mth(leaves[:k]) + _mth(leaves[k:])).digest()


def _tree(leaves: Sequence[bytes], step: int = 10**9) -> dict[merkle.Tile, bytes]:
    """Return the tiles after appending ``step`` leaf hashes at a time."""
    tiles: dict[merkle.Tile, bytes] = {}
    for size in range(0, len(leaves), step):
        unfinished = {place: tiles[place] for place in merkle.edge(size).values()}
        tiles |= merkle.extended(size, unfinished, leaves[size : size + step])
    return tiles


HASHES = [_leaf(str(i).encode()) for i in range(BIG)]
WRONG = _leaf(b"wrong")
NODE = merkle.node_of_tiles(_tree(HASHES))


def test_the_roots_are_the_published_ones() -> None:
    node = merkle.node_of_tiles(_tree([_leaf(leaf) for leaf in LEAVES]))
    assert [merkle.root(size, node).hex() for size in range(9)] == ROOTS
    assert [_mth([_leaf(leaf) for leaf in LEAVES[:size]]).hex() for size in range(9)] == ROOTS


@pytest.mark.parametrize(("seq", "size"), PATHS)
def test_the_inclusion_paths_are_the_published_ones(seq: int, size: int) -> None:
    node = merkle.node_of_tiles(_tree([_leaf(leaf) for leaf in LEAVES]))
    path = merkle.inclusion_path(seq, size, node)
    assert [step.hex() for step in path] == PATHS[seq, size]
    merkle.verify_inclusion(_leaf(LEAVES[seq]), seq=seq, size=size, path=path, root=bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_the_consistency_paths_are_the_published_ones(old: int, new: int) -> None:
    node = merkle.node_of_tiles(_tree([_leaf(leaf) for leaf in LEAVES]))
    path = merkle.consistency_path(old, new, node)
    assert [step.hex() for step in path] == CONSISTENCY[old, new]
    old_root, new_root = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    merkle.verify_consistency(old=old, new=new, old_root=old_root, new_root=new_root, path=path)


@pytest.mark.parametrize("step", [1, 7, 256, 300])
def test_tiles_do_not_depend_on_how_the_leaves_came(step: int) -> None:
    assert _tree(HASHES[:1500], step) == _tree(HASHES[:1500])


def test_a_tile_holds_the_roots_of_the_tiles_below_it() -> None:
    tiles = _tree(HASHES)
    assert tiles[0, 0] == b"".join(HASHES[:256])
    assert tiles[1, 0][:32] == _mth(HASHES[:256])
    assert tiles[2, 0] == _mth(HASHES[:65_536])
    assert len(tiles[1, BIG // 65_536]) == (BIG // 256) % 256 * 32
    assert len(tiles[0, BIG // 256]) == BIG % 256 * 32
    assert merkle.edge(BIG) == {0: (0, 273), 1: (1, 1), 2: (2, 0)}


def test_a_tile_that_is_not_as_wide_as_the_size_says_is_refused() -> None:
    with pytest.raises(ValueError, match="tile 0 of level 0 holds 64 bytes where 3 hashes belong"):
        merkle.extended(3, {(0, 0): b"".join(HASHES[:2])}, HASHES[3:4])


@given(size=st.integers(1, BIG), data=st.data())
def test_any_leaf_of_any_size_is_proven_and_no_other_leaf_place_size_or_root(size: int, data: st.DataObject) -> None:
    seq = data.draw(st.integers(0, size - 1))
    root, path = merkle.root(size, NODE), merkle.inclusion_path(seq, size, NODE)
    merkle.verify_inclusion(HASHES[seq], seq=seq, size=size, path=path, root=root)
    other = data.draw(st.integers(0, size + 1))
    wrong: list[dict[str, object]] = [{"path": [*path, WRONG]}, {"root": WRONG}]
    wrong += [{"seq": other}] if other != seq else []
    wrong += [{"path": path[:-1]}, {"path": path[1:]}] if path else []
    for change in wrong:
        with pytest.raises(InvalidProof):
            merkle.verify_inclusion(
                HASHES[seq],
                **{"seq": seq, "size": size, "path": path, "root": root, **change},  # type: ignore[arg-type]
            )
    with pytest.raises(InvalidProof):
        merkle.verify_inclusion(_leaf(b"another"), seq=seq, size=size, path=path, root=root)


@given(sizes=st.tuples(st.integers(1, BIG), st.integers(1, BIG)).map(sorted), data=st.data())
def test_any_two_sizes_are_proven_consistent_and_no_others(sizes: list[int], data: st.DataObject) -> None:
    old, new = sizes
    path = merkle.consistency_path(old, new, NODE)
    whole = {
        "old": old,
        "new": new,
        "old_root": merkle.root(old, NODE),
        "new_root": merkle.root(new, NODE),
        "path": path,
    }
    merkle.verify_consistency(**whole)  # type: ignore[arg-type]
    wrong: list[dict[str, object]] = [{"old_root": WRONG}, {"new_root": WRONG}, {"path": [*path, WRONG]}]
    if path:
        at, bit = data.draw(st.integers(0, len(path) - 1)), data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(path[at]) ^ 1 << bit).to_bytes(32)
        wrong += [{"path": path[:-1]}, {"path": [*path[:at], flipped, *path[at + 1 :]]}]
    for change in wrong:
        with pytest.raises(InvalidProof):
            merkle.verify_consistency(**{**whole, **change})  # type: ignore[arg-type]


@given(leaves=st.lists(st.binary(max_size=40), min_size=1, max_size=700), data=st.data())
@settings(max_examples=40)
def test_roots_and_proofs_equal_pymerkles(leaves: list[bytes], data: st.DataObject) -> None:
    oracle = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        oracle.append_entry(leaf)
    size = data.draw(st.integers(1, len(leaves)))
    seq, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    node = merkle.node_of_tiles(_tree([merkle.hash_leaf(leaf) for leaf in leaves]))
    assert merkle.root(size, node) == oracle.get_root(size)
    assert merkle.root(size, node) == _mth([_leaf(leaf) for leaf in leaves[:size]])
    merkle.verify_inclusion(
        merkle.hash_leaf(leaves[seq]),
        seq=seq,
        size=size,
        path=merkle.inclusion_path(seq, size, node),
        root=oracle.get_root(size),
    )
    theirs = oracle.prove_inclusion(seq + 1, size).serialize()["path"]
    assert [step.hex() for step in merkle.inclusion_path(seq, size, node)] == theirs[1:]
    pymerkle.verify_consistency(oracle.get_root(old), oracle.get_root(size), oracle.prove_consistency(old, size))
    merkle.verify_consistency(
        old=old,
        new=size,
        old_root=oracle.get_root(old),
        new_root=oracle.get_root(size),
        path=merkle.consistency_path(old, size, node),
    )


@given(size=st.integers(1, BIG), data=st.data())
def test_a_proof_reads_few_tiles(size: int, data: st.DataObject) -> None:
    seq = data.draw(st.integers(0, size - 1))
    places = merkle.tiles_read(lambda node: merkle.inclusion_path(seq, size, node))
    assert len(places) <= 5
    places |= merkle.tiles_read(lambda node: merkle.root(size, node))
    tiles = {place: tile for place, tile in _tree_of_big().items() if place in places}
    assert merkle.root(size, merkle.node_of_tiles(tiles)) == merkle.root(size, NODE)


def _tree_of_big(found: list[dict[merkle.Tile, bytes]] = []) -> dict[merkle.Tile, bytes]:  # noqa: B006 - made once
    if not found:
        found.append(_tree(HASHES))
    return found[0]


def test_what_is_not_in_the_tree_has_no_proof() -> None:
    for seq, size in ((-1, 3), (3, 3), (0, 0)):
        with pytest.raises(ValueError, match="not in a tree"):
            merkle.inclusion_path(seq, size, NODE)
        with pytest.raises(InvalidProof, match="not in a tree"):
            merkle.verify_inclusion(HASHES[0], seq=seq, size=size, path=[], root=HASHES[0])
    for old, new in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="begins"):
            merkle.consistency_path(old, new, NODE)
        with pytest.raises(InvalidProof, match="begin"):
            merkle.verify_consistency(old=old, new=new, old_root=HASHES[0], new_root=HASHES[0], path=[])


@given(sizes=st.lists(st.integers(1, 3000), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_reordered_or_shortened_history_is_not_consistent(sizes: list[int]) -> None:
    old, new = sizes
    assume(old > 1)
    swapped = [HASHES[1], HASHES[0], *HASHES[2:new]]
    node = merkle.node_of_tiles(_tree(swapped))
    with pytest.raises(InvalidProof, match=r"root of the (older|newer) tree"):
        merkle.verify_consistency(
            old=old,
            new=new,
            old_root=merkle.root(old, NODE),
            new_root=merkle.root(new, node),
            path=merkle.consistency_path(old, new, node),
        )
