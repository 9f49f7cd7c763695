"""A receipt opens one commitment of one root; the paths are RFC 6962's, written again here by its recursion."""

import copy
import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.evidence import commitments, receipts
from service.evidence.receipts import ReceiptRefused, check, inclusion_paths

KEY = bytes(range(32))


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return _leaf(leaves[0])
    k = _split(len(leaves))
    return hashlib.sha256(b"\x01" + _root(leaves[:k]) + _root(leaves[k:])).digest()


def _path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962 §2.1.1, as it is written."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*_path(m, leaves[:k]), _root(leaves[k:])]
    return [*_path(m - k, leaves[k:]), _root(leaves[:k])]


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=70))
def test_paths_are_rfc_6962s(leaves: list[bytes]) -> None:
    everywhere = list(range(len(leaves)))
    assert inclusion_paths(leaves, everywhere) == [_path(m, leaves) for m in everywhere]


def _receipt(ids: list[str], sample_id: str, *, request_id: str = "req_1", key: bytes = KEY) -> dict[str, Any]:
    leaves = sorted(commitments.commitment(key, each) for each in ids)
    leaf = commitments.commitment(key, sample_id)
    index = leaves.index(leaf)
    return {
        "format": "unlearning-receipt/v1",
        "request_id": request_id,
        "dataset": "d",
        "sample_id": sample_id,
        "key": commitments.derive(key, sample_id).hex(),
        "commitment": leaf.hex(),
        "index": index,
        "num_commitments": len(leaves),
        "path": [node.hex() for node in _path(index, leaves)],
        "commitment_root": _root(leaves).hex(),
        "log_seq": 7,
    }


@given(st.integers(1, 40), st.data())
def test_a_receipt_of_any_place_in_a_request_of_any_size_is_accepted(count: int, data: st.DataObject) -> None:
    ids = [f"patient-{i}" for i in range(count)]
    receipt = _receipt(ids, data.draw(st.sampled_from(ids)))
    check(receipt)
    check(receipt, request_id="req_1", commitment_root=receipt["commitment_root"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sample_id": "patient-2"}, "commitment_not_opened"),
        ({"key": "0" * 64}, "commitment_not_opened"),
        ({"commitment": "0" * 64}, "commitment_not_opened"),
        ({"index": 1}, "not_in_the_root"),
        ({"num_commitments": 4}, "not_in_the_root"),
        ({"path": []}, "not_in_the_root"),
        ({"commitment_root": "0" * 64}, "not_in_the_root"),
        ({"format": "unlearning-receipt/v2"}, "not_a_receipt"),
        ({"index": 9}, "not_a_receipt"),
        ({"index": -1}, "not_a_receipt"),
        ({"index": True}, "not_a_receipt"),
        ({"path": ["zz"]}, "not_a_receipt"),
        ({"path": "ab"}, "not_a_receipt"),
        ({"key": "AB" * 32}, "not_a_receipt"),
        ({"sample_id": "\ud800"}, "not_a_receipt"),
        ({"more": 1}, "not_a_receipt"),
    ],
)
def test_what_was_altered_is_refused_by_name(change: dict[str, Any], code: str) -> None:
    ids = [f"patient-{i}" for i in range(9)]
    first = min(ids, key=lambda each: commitments.commitment(KEY, each))
    receipt = _receipt(ids, first)
    assert receipt["index"] == 0
    if change.get("sample_id") == first:
        change = {"sample_id": "patient-3"}
    with pytest.raises(ReceiptRefused) as refusal:
        check({**receipt, **change})
    assert refusal.value.code == code


@given(st.data())
def test_no_mutation_is_accepted(data: st.DataObject) -> None:
    """The request's name, the dataset's and the place in the log are not bound by the hashes: the caller compares."""
    ids = [f"patient-{i}" for i in range(data.draw(st.integers(1, 20)))]
    whole = _receipt(ids, data.draw(st.sampled_from(ids)))
    field = data.draw(st.sampled_from(["sample_id", "key", "commitment", "index", "path", "commitment_root"]))
    altered = copy.deepcopy(whole)
    value = data.draw(
        st.text("0123456789abcdef", min_size=64, max_size=64)
        | st.text(max_size=12)
        | st.integers(-2, 25)
        | st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=6)
    )
    altered[field] = value
    if altered == whole:
        return
    with pytest.raises(ReceiptRefused):
        check(altered, commitment_root=whole["commitment_root"])


def test_a_receipt_of_another_request_is_refused() -> None:
    receipt = _receipt(["a", "b"], "a")
    with pytest.raises(ReceiptRefused, match="another request") as refusal:
        check(receipt, request_id="req_2")
    assert refusal.value.code == "receipt_of_another_request"
    renamed = {**receipt, "request_id": "req_2"}
    other = _receipt(["a", "c"], "a", request_id="req_2", key=b"o" * 32)
    with pytest.raises(ReceiptRefused) as refusal:
        check(renamed, request_id="req_2", commitment_root=other["commitment_root"])
    assert refusal.value.code == "receipt_of_another_root"


def test_a_receipt_opens_no_other_id() -> None:
    """Whoever holds one has one id's key: with it no other commitment comes out, whatever id is guessed."""
    ids = [f"patient-{i}" for i in range(30)]
    receipt = _receipt(ids, "patient-4")
    others = {commitments.commitment(KEY, each) for each in ids if each != "patient-4"}
    key = bytes.fromhex(receipt["key"])
    assert not others & {commitments.commitment(key, each) for each in ids}
    assert not others & {hmac.digest(key, each.encode(), "sha256") for each in ids}
    for each in ids:
        if each != "patient-4":
            with pytest.raises(ReceiptRefused):
                check({**receipt, "sample_id": each})


def test_the_file_stands_alone(tmp_path: Path) -> None:
    """Copied to an empty folder, it checks a receipt with nothing but Python."""
    (tmp_path / "receipts.py").write_text(Path(receipts.__file__).read_text())
    (tmp_path / "receipt.json").write_text(json.dumps(_receipt(["a", "b", "c"], "b")))
    program = "import json, receipts; receipts.check(json.load(open('receipt.json'))); print('covered')"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "covered\n"
