"""Cuts the report of a job that several requests share into parts, so that each can be shown alone. Pure.

The log has one digest of the report: over the common part's digest and the root of a Merkle tree (RFC 6962) over the
requests' figures. So whoever is given the common part and one request's figure with its proof can check both against
the log, and learns nothing of another request: each figure has a random salt, without which its hash tells nothing.
`service.evidence.verify` puts the parts together again.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.evidence.receipts import inclusion_paths
from service.evidence.verify import PARTS_SCHEME, canonical, leaf_hash, report_digest, tree_root

SALT_BYTES = 16
_ROWS, _PARTS = "per_request", "parts"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured on one request's samples, and where it stands. ``proof``: hex, nearest the leaf first."""

    request_id: str
    index: int
    document: Mapping[str, Any]
    proof: list[str]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """``stored``: what of a report is kept in one piece. ``figures``: none where no requests share it."""

    stored: dict[str, Any]
    figures: list[Figure]
    sha256: str


def cut(report: Mapping[str, Any]) -> Cut:
    """Return the parts of a new report. One that no requests share stays whole."""
    rows = report.get(_ROWS)
    if not rows:
        return Cut(stored=dict(report), figures=[], sha256=report_digest(report))
    documents = [{**row, "salt": secrets.token_hex(SALT_BYTES)} for row in rows]
    parts = {
        "scheme": PARTS_SCHEME,
        "requests": len(documents),
        "root": tree_root([leaf_hash(each) for each in documents]).hex(),
    }
    paths = inclusion_paths([canonical(each) for each in documents], range(len(documents)))
    figures = [
        Figure(request_id=document["request"], index=index, document=document, proof=[node.hex() for node in path])
        for index, (document, path) in enumerate(zip(documents, paths, strict=True))
    ]
    stored = {**{name: value for name, value in report.items() if name != _ROWS}, _PARTS: parts}
    return Cut(stored=stored, figures=figures, sha256=report_digest({**stored, _ROWS: documents}))


def joined(stored: Mapping[str, Any], documents: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the whole report. ``documents``: every request's figure, in order."""
    return {**stored, _ROWS: [dict(each) for each in documents]}


def shown_to(stored: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    """Return the report with the figure of one request alone, and the proof that it belongs to it."""
    shown = {"index": figure.index, "proof": figure.proof}
    return {**stored, _ROWS: [dict(figure.document)], _PARTS: {**stored[_PARTS], "shown": shown}}
