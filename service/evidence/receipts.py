"""Receipts: that one id was among those a deletion request covered, and nothing of any other. Pure.

A receipt carries the id's own key, which opens the id's commitment and no other, and the commitment's inclusion path
(RFC 6962 §2.1.1) in the root that the log states for the request. `check` needs nothing but this file.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = "unlearning-receipt/v1"
_HEX = {"commitment_root": 64, "commitment": 64, "key": 64}
_FIELDS = {
    "format": str,
    "request_id": str,
    "dataset": str,
    "sample_id": str,
    "key": str,
    "commitment": str,
    "index": int,
    "num_commitments": int,
    "path": list,
    "commitment_root": str,
    "log_seq": int,
}


class ReceiptRefused(ValueError):
    """The receipt does not show what it is to show. ``code`` is stable; the message names what is wrong."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def inclusion_paths(leaves: Sequence[bytes], indices: Sequence[int]) -> list[list[bytes]]:
    """Return the RFC 6962 inclusion path of each index, nearest the leaf first."""
    paths: list[list[bytes]] = [[] for _ in indices]
    places = list(indices)
    level = [_hash_leaf(leaf) for leaf in leaves]
    while len(level) > 1:
        for path, place in zip(paths, places, strict=True):
            if place ^ 1 < len(level):
                path.append(level[place ^ 1])
        places = [place // 2 for place in places]
        paired = [_hash_pair(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(paired) * 2 :]
    return paths


def check(receipt: Mapping[str, Any], *, request_id: str | None = None, commitment_root: str | None = None) -> None:
    """Raise ReceiptRefused unless the receipt shows that its id is covered.

    Alone it shows that it is consistent. ``request_id`` and ``commitment_root``: what it must be a receipt of; take
    the root from the request's certificate or from its entry ``request.received`` in the log, not from the receipt.
    """
    _refuse_other_shape(receipt)
    if request_id is not None and receipt["request_id"] != request_id:
        raise ReceiptRefused("receipt_of_another_request", "The receipt is of another request.")
    root = receipt["commitment_root"]
    if commitment_root is not None and not hmac.compare_digest(root.encode(), commitment_root.encode()):
        raise ReceiptRefused("receipt_of_another_root", "The receipt's root is not the one the request has in the log.")
    commitment = bytes.fromhex(receipt["commitment"])
    opened = hmac.digest(bytes.fromhex(receipt["key"]), receipt["sample_id"].encode(), "sha256")
    if not hmac.compare_digest(opened, commitment):
        raise ReceiptRefused("commitment_not_opened", "The key does not open the commitment to this sample ID.")
    path = [bytes.fromhex(node) for node in receipt["path"]]
    found = _root_of(commitment, receipt["index"], receipt["num_commitments"], path)
    if found is None or not hmac.compare_digest(found, bytes.fromhex(root)):
        raise ReceiptRefused("not_in_the_root", "The path does not lead from the commitment to the root.")


def _root_of(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that the path leads to (RFC 9162 §2.1.3.2); None if it is not as long as the place asks for."""
    place, last, node = index, size - 1, _hash_leaf(leaf)
    for sibling in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            node = _hash_pair(sibling, node)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            node = _hash_pair(node, sibling)
        place, last = place >> 1, last >> 1
    return node if last == 0 else None


def _refuse_other_shape(receipt: Mapping[str, Any]) -> None:
    faults = [f"`{name}` is missing" for name in _FIELDS if name not in receipt]
    faults += [f"`{name}` is not known" for name in receipt if name not in _FIELDS]
    for name, kind in _FIELDS.items():
        value = receipt.get(name)
        if name in receipt and (not isinstance(value, kind) or isinstance(value, bool)):
            faults.append(f"`{name}` is no {kind.__name__}")
    if not faults:
        faults = _wrong_values(receipt)
    if faults:
        raise ReceiptRefused("not_a_receipt", "This is no receipt: " + "; ".join(faults) + ".")


def _wrong_values(receipt: Mapping[str, Any]) -> list[str]:
    faults = []
    if receipt["format"] != FORMAT:
        faults.append(f"`format` is not {FORMAT}")
    faults += [f"`{name}` is not {size} hex digits" for name, size in _HEX.items() if not _is_hex(receipt[name], size)]
    if len(receipt["path"]) > 64 or not all(_is_hex(node, 64) for node in receipt["path"]):
        faults.append("`path` is not a list of hashes")
    if not 0 <= receipt["index"] < receipt["num_commitments"] < 2**63:
        faults.append("`index` is not below `num_commitments`")
    try:
        receipt["sample_id"].encode()
    except UnicodeEncodeError:
        faults.append("`sample_id` is not Unicode text")
    return faults


def _is_hex(value: object, size: int) -> bool:
    return isinstance(value, str) and len(value) == size and set(value) <= set("0123456789abcdef")


def _hash_leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def _hash_pair(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
