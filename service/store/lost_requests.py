"""Requests that the log tells of and a restored database has not: those to send again, and those that had ended."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.store.samples import one_of
from service.store.tables import Dataset, DeletionRequest

Entry = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Their ids, in order. What those that had ``ended`` came to needs nobody: it was replayed, or was nothing."""

    to_send_again: list[str]
    ended: list[str]


def lost_requests(session: Session, later: Sequence[Entry]) -> Lost:
    """Return the requests that the log's ``later`` entries received and the database does not know."""
    received = {_subject(entry): entry for entry in later if entry["action"] == "request.received"}
    known = session.scalars(select(DeletionRequest.id).where(one_of(session, DeletionRequest.id, list(received))))
    lost = received.keys() - set(known)
    datasets = set(session.scalars(select(Dataset.name)))
    over = {
        _subject(entry)
        for entry in later
        if _subject(entry) in lost and _needs_nobody(entry, received[_subject(entry)], datasets)
    }
    return Lost(to_send_again=sorted(lost - over), ended=sorted(over))


def _subject(entry: Entry) -> str:
    return str(entry["subject"]).rpartition("/")[2]


def _needs_nobody(entry: Entry, received: Entry, datasets: set[str]) -> bool:
    """Say whether the entry ends its request for good.

    Only a privacy request that reached every model erased its ids, which are replayed where their dataset is back. Any
    other changed models alone, and the versions that it led to are lost.
    """
    if entry["action"] in ("request.denied", "request.cancelled"):
        return True
    if entry["action"] != "request.completed" or json.loads(entry["payload"]).get("scope") != "full":
        return False
    here = any(kind == "dataset" and name in datasets for kind, name in received.get("links", ()))
    return here and json.loads(received["payload"])["purpose"] == "privacy"
