"""An exported log against checkpoints: what was changed, moved, cut off or swapped is refused by its name."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from service.evidence import notes
from service.evidence.leaf import leaf_hash
from service.evidence.log_verification import InvalidLog, verify_log
from service.evidence.notes import Checkpoint, NoteKey
from service.evidence.signing import Signer
from tests.unit.test_merkle import _mth

ORIGIN = "example.com/log"
SIGNER = Signer.of_seed(bytes(range(32)), name=ORIGIN)
TRUSTED = [NoteKey(name=ORIGIN, public_key=SIGNER.public_key)]
COUNT = 21


def _entry(seq: int, **changes: Any) -> dict[str, Any]:
    fields = {
        "seq": seq,
        "time": f"2026-01-01T00:00:{seq:02}.000000Z",
        "actor": "key_1",
        "action": "test.done",
        "subject": f"test/{seq}",
        "payload": {"count": seq, "share": 0.5, "name": "café"},
        **changes,
    }
    return {**fields, "leaf_hash": leaf_hash(fields).hex()}


LOG = [_entry(seq) for seq in range(COUNT)]


def _lines(log: list[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(entry).encode() for entry in log]


def _note(size: int, log: list[dict[str, Any]] = LOG, signer: Signer = SIGNER) -> str:
    root = _mth([bytes.fromhex(entry["leaf_hash"]) for entry in log[:size]])
    return notes.sign_note(Checkpoint(origin=signer.name, size=size, root=root).text, signer)


def test_a_log_that_was_signed_holds_at_each_checkpoint_and_beyond() -> None:
    found = verify_log(_lines(LOG), checkpoints=[_note(17), _note(0), _note(8)], trusted=TRUSTED)
    assert [each.size for each in found] == [0, 8, 17]
    for size in range(COUNT + 1):
        verify_log(_lines(LOG), checkpoints=[_note(size)], trusted=TRUSTED)


def test_a_number_beyond_two_to_the_53_is_the_double_that_was_hashed() -> None:
    log = [_entry(0, payload={"apart": 1e17})]
    line = json.dumps(log[0]).replace("1e+17", "100000000000000000").encode()
    assert b"100000000000000000" in line
    verify_log([line], checkpoints=[_note(1, log)], trusted=TRUSTED)


@pytest.mark.parametrize(
    "more", [b'"payload": {"count": 9}, ', b'"approved_by": "somebody", ', b'"x": ' + b"[" * 5000 + b"]" * 5000 + b", "]
)
def test_a_line_that_says_more_than_its_entry_is_refused(more: bytes) -> None:
    lines = _lines(LOG)
    lines[5] = b"{" + more + lines[5][1:]
    with pytest.raises(InvalidLog, match="line 6"):
        verify_log(lines, checkpoints=[_note(COUNT)], trusted=TRUSTED)


def _changed(log: list[dict[str, Any]]) -> None:
    log[5] = {**log[5], "actor": "somebody else"}


def _changed_with_its_hash(log: list[dict[str, Any]]) -> None:
    log[5] = _entry(5, actor="somebody else")


def _reordered(log: list[dict[str, Any]]) -> None:
    log[5], log[6] = log[6], log[5]


def _reordered_and_renumbered(log: list[dict[str, Any]]) -> None:
    log[5], log[6] = _entry(5, subject="test/6"), _entry(6, subject="test/5")


def _cut(log: list[dict[str, Any]]) -> None:
    del log[-1]


def _one_taken_out(log: list[dict[str, Any]]) -> None:
    del log[5]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (_changed, "entry 5 does not have the leaf hash it states"),
        (_changed_with_its_hash, "do not have the root that was signed"),
        (_reordered, "entry 6 stands where entry 5 belongs"),
        (_reordered_and_renumbered, "do not have the root that was signed"),
        (_cut, "ends after 20 entries and 21 were signed: its tail is missing"),
        (_one_taken_out, "entry 6 stands where entry 5 belongs"),
    ],
)
def test_a_log_that_was_tampered_with_is_refused_by_what_is_wrong(
    change: Callable[[list[dict[str, Any]]], None], wrong: str
) -> None:
    log = list(LOG)
    change(log)
    with pytest.raises(InvalidLog, match=wrong):
        verify_log(_lines(log), checkpoints=[_note(COUNT)], trusted=TRUSTED)


def test_a_swapped_checkpoint_is_refused() -> None:
    other = [_entry(seq, actor="another log") for seq in range(COUNT)]
    with pytest.raises(InvalidLog, match="root that was signed"):
        verify_log(_lines(LOG), checkpoints=[_note(COUNT, other)], trusted=TRUSTED)
    stranger = Signer.of_seed(bytes(32), name=ORIGIN)
    with pytest.raises(InvalidLog, match="not signed by a trusted key"):
        verify_log(_lines(LOG), checkpoints=[_note(COUNT, signer=stranger)], trusted=TRUSTED)


def test_a_log_rewritten_after_an_earlier_checkpoint_is_refused_though_signed_anew() -> None:
    rewritten = [*LOG[:5], _entry(5, actor="somebody else"), *LOG[6:]]
    verify_log(_lines(rewritten), checkpoints=[_note(COUNT, rewritten)], trusted=TRUSTED)
    with pytest.raises(InvalidLog, match="the first 8 entries"):
        verify_log(_lines(rewritten), checkpoints=[_note(COUNT, rewritten), _note(8)], trusted=TRUSTED)


def test_none_of_ten_thousand_mutations_is_accepted() -> None:
    draw = random.Random(3)
    lines, note = _lines(LOG), _note(COUNT)
    for _ in range(10_000):
        changed = list(lines)
        at = draw.randrange(COUNT)
        match draw.randrange(4):
            case 0:
                raw = bytearray(changed[at])
                raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
                changed[at] = bytes(raw)
            case 1:
                other = draw.choice([i for i in range(COUNT) if i != at])
                changed[at], changed[other] = changed[other], changed[at]
            case 2:
                del changed[at:]
            case _:
                changed.insert(at, changed[draw.randrange(COUNT)])
        if _same(changed, lines):
            continue
        with pytest.raises(InvalidLog):
            verify_log(changed, checkpoints=[note], trusted=TRUSTED)


def _same(changed: list[bytes], lines: list[bytes]) -> bool:
    """Say whether the lines still state the same entries, as when the case of an escape's digit changed."""
    try:
        return [json.loads(line) for line in changed] == [json.loads(line) for line in lines]
    except ValueError:
        return False
