"""Checks an exported audit log against signed checkpoints, offline, in one pass and constant memory."""

import json
from collections.abc import Iterable, Sequence

from service.evidence import notes
from service.evidence.leaf import canonical
from service.evidence.merkle import EMPTY_ROOT, hash_children, hash_leaf
from service.evidence.notes import Checkpoint, InvalidNote, NoteKey
from service.evidence.verify import no_name_twice, whole

FIELDS = ("seq", "time", "actor", "action", "subject", "payload")


class InvalidLog(ValueError):
    """The export is not the log that was signed; the message names what is wrong."""


class Frontier:
    """The roots of the perfect subtrees that a growing tree consists of, largest first."""

    def __init__(self) -> None:
        self.size = 0
        self._roots: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        found, carried = leaf, self.size
        while carried & 1:
            found, carried = hash_children(self._roots.pop(), found), carried >> 1
        self._roots.append(found)
        self.size += 1

    def root(self) -> bytes:
        if not self._roots:
            return EMPTY_ROOT
        found = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            found = hash_children(left, found)
        return found


def verify_log(
    lines: Iterable[bytes], *, checkpoints: Sequence[str], trusted: Sequence[NoteKey]
) -> list[Checkpoint]:  # fmt: skip
    """Check that an unfiltered export has the root of each signed note; return what they say, smallest first.

    Entries beyond the largest checkpoint are read for their form alone: nothing vouches for them yet.
    Raises InvalidLog.
    """
    signed = sorted((_opened(note, trusted) for note in checkpoints), key=lambda found: found.size)
    waiting, tree = list(signed), Frontier()
    _compare(waiting, tree)
    for line in lines:
        tree.add(_leaf(line, tree.size))
        _compare(waiting, tree)
    if waiting:
        wanted = waiting[-1].size
        raise InvalidLog(f"the export ends after {tree.size} entries and {wanted} were signed: its tail is missing")
    return signed


def _opened(note: str, trusted: Sequence[NoteKey]) -> Checkpoint:
    try:
        return notes.open_checkpoint(note, trusted)
    except InvalidNote as fault:
        raise InvalidLog(f"a checkpoint does not hold: {fault}") from None


def _compare(waiting: list[Checkpoint], tree: Frontier) -> None:
    while waiting and waiting[0].size == tree.size:
        signed = waiting.pop(0)
        if signed.root != tree.root():
            raise InvalidLog(
                f"the first {signed.size} entries do not have the root that was signed: "
                "one of them was changed, or the checkpoint is of another log"
            )


def _leaf(line: bytes, seq: int) -> bytes:
    try:
        entry = json.loads(line, object_pairs_hook=no_name_twice, parse_int=whole)
        fields = {name: entry[name] for name in FIELDS}
        stated = entry["leaf_hash"]
        leaf = hash_leaf(canonical(fields))
    except (ValueError, KeyError, TypeError, RecursionError) as fault:
        raise InvalidLog(f"line {seq + 1} is not an entry: {type(fault).__name__}") from None
    if len(entry) > len(fields) + 1:
        raise InvalidLog(f"line {seq + 1} says more than an entry does, and nothing vouches for that")
    if fields["seq"] != seq:
        raise InvalidLog(
            f"entry {str(fields['seq'])[:20]} stands where entry {seq} belongs: "
            "entries are missing, doubled or out of order"
        )
    if leaf.hex() != stated:
        raise InvalidLog(f"entry {seq} does not have the leaf hash it states: it was changed")
    return leaf
