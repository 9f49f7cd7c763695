"""Signed notes and checkpoints, checked by a reader written here from the C2SP text alone, and against mutation."""

import base64
import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from service.evidence import notes
from service.evidence.notes import Checkpoint, InvalidNote, NoteKey
from service.evidence.signing import Signer

ORIGIN = "example.com/log"
SIGNER = Signer.of_seed(bytes(range(32)), name=ORIGIN)
OTHER = Signer.of_seed(bytes(32), name=ORIGIN)
CHECKPOINT = Checkpoint(origin=ORIGIN, size=7, root=hashlib.sha256(b"root").digest())
NOTE = notes.sign_note(CHECKPOINT.text, SIGNER)
KEY = NoteKey(name=ORIGIN, public_key=SIGNER.public_key)


def c2sp_read(note: str, name: str, public_key: bytes) -> tuple[str, int, bytes]:
    """Read a checkpoint as c2sp.org/signed-note and c2sp.org/tlog-checkpoint say; nothing of the service is used."""
    raw = note.encode("utf-8")
    end = raw.rindex(b"\n\n")
    text, lines = raw[: end + 1], raw[end + 2 :].split(b"\n")
    assert lines.pop() == b""
    wanted = hashlib.sha256(name.encode() + b"\x0a" + b"\x01" + public_key).digest()[0:4]
    verified = False
    for line in lines:
        dash, by, encoded = line.split(b" ")
        assert dash == b"\xe2\x80\x94"
        data = base64.b64decode(encoded, validate=True)
        if by == name.encode() and data[:4] == wanted:
            Ed25519PublicKey.from_public_bytes(public_key).verify(data[4:], text)
            verified = True
    assert verified
    origin, size, root = text.split(b"\n")[:3]
    assert str(int(size)).encode() == size
    return origin.decode(), int(size), base64.b64decode(root, validate=True)


def test_a_reader_written_from_the_specification_reads_our_checkpoint() -> None:
    assert c2sp_read(NOTE, ORIGIN, SIGNER.public_key) == (ORIGIN, 7, CHECKPOINT.root)
    assert NOTE.startswith("example.com/log\n7\n")
    assert notes.open_checkpoint(NOTE, [KEY]) == CHECKPOINT


def test_the_published_verifier_key_and_note_are_read() -> None:
    """The example key of Go's note package, whose form C2SP took over, and the note it signed."""
    key = NoteKey.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN"
        "1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert key.verifier_key == "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert notes.open_note(note, [key]).startswith("If you think")
    with pytest.raises(InvalidNote, match="signature of PeterNeumann"):
        notes.open_note(note.replace("problem is", "solution is"), [key])


def test_a_note_needs_one_trusted_signature_and_no_wrong_one() -> None:
    both = NOTE + notes.sign_note(CHECKPOINT.text, OTHER).splitlines(keepends=True)[-1]
    assert notes.open_checkpoint(both, [KEY]) == CHECKPOINT
    with pytest.raises(InvalidNote, match="not signed by a trusted key"):
        notes.open_checkpoint(NOTE, [NoteKey(name=ORIGIN, public_key=OTHER.public_key)])
    elsewhere = Signer.of_seed(bytes(range(32)), name="example.org/other")
    foreign = notes.sign_note(CHECKPOINT.text, elsewhere)
    with pytest.raises(InvalidNote, match="not signed by a trusted key"):
        notes.open_checkpoint(foreign, [NoteKey(name=elsewhere.name, public_key=elsewhere.public_key)])


@pytest.mark.parametrize(
    ("note", "wrong"),
    [
        ("", "blank line"),
        (CHECKPOINT.text, "blank line"),
        (NOTE[:-1], "blank line"),
        (NOTE.replace("\u2014", "-"), "malformed"),
        (NOTE + "\u2014 x y\n\u2014\n", "not base64"),
        (NOTE + "\u2014\n", "malformed"),
        (NOTE.replace("\n7\n", "\n07\n"), "leading zeros"),
        (NOTE.replace("\n7\n", "\n-7\n"), "leading zeros"),
        (NOTE.replace("\n7\n", "\n8\n"), "not one of this text"),
        (NOTE.replace("example.com/log\n", "example.com/lag\n"), "not signed by a trusted key"),
        (NOTE.replace("\n7\n", "\n7\r\n"), "control character"),
        (NOTE + NOTE.splitlines(keepends=True)[-1] * 100, "more than 100"),
    ],
)
def test_a_note_that_is_not_whole_is_refused_by_what_is_wrong(note: str, wrong: str) -> None:
    with pytest.raises(InvalidNote, match=wrong):
        notes.open_checkpoint(note, [KEY])


def test_none_of_ten_thousand_mutations_is_accepted() -> None:
    draw = random.Random(7)
    for _ in range(10_000):
        raw = bytearray(NOTE.encode())
        match draw.randrange(3):
            case 0:
                raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
            case 1:
                del raw[draw.randrange(len(raw))]
            case _:
                raw.insert(draw.randrange(len(raw) + 1), draw.randrange(256))
        if bytes(raw) == NOTE.encode():
            continue
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            continue
        with pytest.raises(InvalidNote):
            notes.open_checkpoint(text, [KEY])


@pytest.mark.parametrize("key", ["", "a+b", "a+00000000+AAAA", KEY.verifier_key.replace("+", "+0", 1), "x" * 50])
def test_a_verifier_key_that_does_not_hold_together_is_refused(key: str) -> None:
    with pytest.raises(InvalidNote, match="verifier key"):
        NoteKey.parse(key)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\nb", "a\x00"])
def test_a_name_without_white_space_or_plus_is_needed(name: str) -> None:
    assert not notes.is_name(name)
    assert notes.is_name("example.com/log")
