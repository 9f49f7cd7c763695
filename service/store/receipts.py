"""Receipts of a request, made from its key as long as that lives. Each call is in the log, without an id."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.evidence import commitments
from service.evidence.receipts import FORMAT, inclusion_paths
from service.store import audit, request_keys, requests
from service.store.tables import Dataset, DeletionRequest


def give(
    session: Session, request_id: str, sample_ids: Sequence[str], *, wrapping_key: bytes
) -> list[dict[str, Any] | None]:
    """Return a receipt for each id that the request covers, and None for one it does not. Raises NotFound, Gone."""
    request = requests.get(session, request_id)
    key = request_keys.of(session, request.id, wrapping_key)
    if key is None:
        raise request_keys.shredded()
    leaves = request_keys.leaves_of(session, request.id)
    places = {leaf: index for index, leaf in enumerate(leaves)}
    own = [commitments.commitment(key, sample_id) for sample_id in sample_ids]
    indices = [places[leaf] for leaf in own if leaf in places]
    paths = dict(zip(indices, inclusion_paths(leaves, indices), strict=True))
    notes = notes_of(session, request)
    common = {
        "format": FORMAT,
        "request_id": request.id,
        "num_commitments": len(leaves),
        "commitment_root": request.commitment_root,
        **notes,
    }
    audit.record(
        session,
        "receipt.given",
        subject=f"deletion-request/{request.id}",
        payload={"asked": len(sample_ids), "covered": len(indices)},
        links={"request": request.id, "dataset": notes["dataset"]},
    )
    return [
        {
            **common,
            "sample_id": sample_id,
            "key": commitments.derive(key, sample_id).hex(),
            "commitment": leaf.hex(),
            "index": places[leaf],
            "path": [node.hex() for node in paths[places[leaf]]],
        }
        if leaf in places
        else None
        for sample_id, leaf in zip(sample_ids, own, strict=True)
    ]


def notes_of(session: Session, request: DeletionRequest) -> dict[str, Any]:
    """Return what a receipt says of its request without proof: the dataset, and where the log has the root."""
    dataset = session.get_one(Dataset, request.dataset_id).name
    return {"dataset": dataset, "log_seq": _logged_at(session, request.id)}


def _logged_at(session: Session, request_id: str) -> int:
    """Return where the log states the request's root."""
    return audit.find(session, actions=["request.received"], links={"request": request_id}, limit=1)[0].seq
