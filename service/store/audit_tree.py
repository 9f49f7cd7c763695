"""The Merkle tree over the audit log, kept in tiles. Appending does not touch it: entries are added in batches, by
whoever needs a checkpoint or a proof, and by a duty, in O(batch + log n).
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from sqlalchemy import bindparam, insert, select, tuple_, update
from sqlalchemy.orm import Session

from service.errors import NotFound, Unavailable
from service.evidence import merkle
from service.evidence.merkle import Node, Tile
from service.store.tables import AuditEntry, AuditHead, AuditTile, AuditTree, table_of

BATCH = 1 << 16
Found = TypeVar("Found")
_TREE, _HEAD, _TILES, _ENTRIES = (table_of(each) for each in (AuditTree, AuditHead, AuditTile, AuditEntry))


class LogDamaged(Unavailable):
    """What the store holds is not the log that was signed."""

    code = "log_damaged"
    title = "The audit log is not what it was"


def lock(session: Session) -> int:
    """Hold the tree until the transaction ends, and return how many entries it covers."""
    size = session.scalar(select(_TREE.c.size).where(_TREE.c.id == 1).with_for_update())
    if size is None:
        raise RuntimeError("the audit tree's row is missing; run the migrations")
    return int(size)


def head(session: Session) -> int:
    """Return how many entries the log has."""
    return int(session.scalar(select(_HEAD.c.size).where(_HEAD.c.id == 1)) or 0)


def covered(session: Session) -> int:
    """Return how many entries the tree covers."""
    return int(session.scalar(select(_TREE.c.size).where(_TREE.c.id == 1)) or 0)


def integrate(session: Session) -> int:
    """Add to the tree every entry that is committed, and return how many it then covers. Raises LogDamaged."""
    size, end = lock(session), head(session)
    if end < size:
        raise LogDamaged(f"The log has {end} entries and its tree {size}: entries are gone.")
    if size == end:
        return size
    while size < end:
        size = _add(session, size, min(size + BATCH, end))
    session.execute(update(_TREE).where(_TREE.c.id == 1).values(size=end))
    return end


def _add(session: Session, size: int, end: int) -> int:
    rows = session.execute(
        select(_ENTRIES.c.leaf_hash)
        .where(_ENTRIES.c.seq >= size, _ENTRIES.c.seq < end)
        .order_by(_ENTRIES.c.seq)
    )  # fmt: skip
    leaves = [bytes.fromhex(row.leaf_hash) for row in rows]
    if len(leaves) != end - size:
        raise LogDamaged(f"Of the entries {size} to {end - 1} only {len(leaves)} are there.")
    unfinished = tiles(session, merkle.edge(size).values())
    try:
        changed = merkle.extended(size, unfinished, leaves)
    except ValueError as error:
        raise LogDamaged(f"The tree does not hold together: {error}.") from None
    _store(session, changed, begun=set(unfinished))
    return end


def _store(session: Session, changed: dict[Tile, bytes], *, begun: set[Tile]) -> None:
    rows = [
        {"in_level": level, "at": index, "now": hashes}
        for (level, index), hashes in changed.items()
        if (level, index) in begun
    ]
    if rows:
        place = (_TILES.c.level == bindparam("in_level"), _TILES.c.index == bindparam("at"))
        session.connection().execute(update(_TILES).where(*place).values(hashes=bindparam("now")), rows)
    fresh = [
        {"level": level, "index": index, "hashes": hashes}
        for (level, index), hashes in changed.items()
        if (level, index) not in begun
    ]
    if fresh:
        session.execute(insert(_TILES), fresh)


def tiles(session: Session, places: Iterable[Tile]) -> dict[Tile, bytes]:
    """Return those of the tiles that are there."""
    wanted = sorted(places)
    if not wanted:
        return {}
    place = (_TILES.c.level, _TILES.c.index)
    query = select(*place, _TILES.c.hashes).where(tuple_(*place).in_(wanted))
    return {(level, index): hashes for level, index, hashes in session.execute(query)}


def ask(session: Session, question: Callable[[Node], Found]) -> Found:
    """Return what ``question`` computes from nodes; all tiles it reads are fetched at once. Raises LogDamaged."""
    found = tiles(session, merkle.tiles_read(question))
    try:
        return question(merkle.node_of_tiles(found))
    except KeyError as error:
        raise LogDamaged(f"The tree's tile {error.args[0]} is missing or too short.") from None


def root(session: Session, size: int) -> bytes:
    """Return the root over the first ``size`` entries, which the tree must cover."""
    return ask(session, lambda node: merkle.root(size, node))


def inclusion(session: Session, seq: int, size: int) -> list[bytes]:
    """Return the path from entry ``seq`` to the root over the first ``size`` entries. Raises NotFound."""
    _check_covered(session, size)
    if not 0 <= seq < size:
        raise NotFound(
            f"Entry {seq} is beyond the checkpoint, which covers the {size} entries before number {size}.",
            code="beyond_checkpoint",
        )
    return ask(session, lambda node: merkle.inclusion_path(seq, size, node))


def consistency(session: Session, old: int, new: int) -> list[bytes]:
    """Return the proof that the first ``new`` entries begin with the first ``old``. Raises NotFound."""
    _check_covered(session, new)
    if not 0 < old <= new:
        raise NotFound(f"No log of {new} entries begins with one of {old}; 0 < from ≤ to.", code="no_such_proof")
    return ask(session, lambda node: merkle.consistency_path(old, new, node))


def _check_covered(session: Session, size: int) -> None:
    if size > covered(session):
        raise NotFound(f"No checkpoint covers {size} entries yet.", code="beyond_checkpoint")
