"""What people decided about requests after the backup: decided again after a restore, or named where it cannot be.

The log has what was decided and by whom, but of what they wrote a commitment alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.errors import ServiceError
from service.store import cancel, decisions, requests
from service.store.tables import DeletionRequest

Entry = Mapping[str, Any]
_AGAIN = frozenset({"request.cancelled", "request.denied", "request.held", "request.released"})
_NAMED = frozenset({"request.approved", "request.extended"})


def take_again(session: Session, later: Sequence[Entry], *, suppression_key: bytes) -> list[str]:
    """Decide again what the log's ``later`` entries say, each request's last word; return those to decide anew.

    An approval and an extension are for people to give again, so they are only named.
    """
    last = {_subject(entry): entry for entry in later if entry["action"] in _AGAIN}
    undecided = set()
    for request_id, entry in sorted(last.items()):
        if session.get(DeletionRequest, request_id) is None:
            continue
        try:
            _take(session, request_id, entry, suppression_key=suppression_key)
        except ServiceError:
            undecided.add(request_id)
    session.flush()
    given = (entry for entry in later if entry["action"] in _NAMED)
    return sorted(undecided | {_subject(entry) for entry in given if _lacks(session, entry)})


def _subject(entry: Entry) -> str:
    return str(entry["subject"]).rpartition("/")[2]


def _take(session: Session, request_id: str, entry: Entry, *, suppression_key: bytes) -> None:
    # As the backup has it: a hold of before it may have been released and put on again since.
    is_held = requests.cause(requests.get(session, request_id), requests.LEGAL_HOLD) is not None
    match entry["action"]:
        case "request.cancelled":
            cancel.cancel(session, request_id)
        case "request.denied":
            reason = json.loads(entry["payload"])["reason"]
            decisions.deny(session, request_id, reason=reason, note=None, by=entry["actor"])
        case "request.held" if not is_held:
            decisions.hold(session, request_id, note="Held before the service was restored.", by=entry["actor"])
        case "request.released" if is_held:
            decisions.release(session, request_id, by=entry["actor"], suppression_key=suppression_key)


def _lacks(session: Session, entry: Entry) -> bool:
    """Say whether the request is in the backup, open still, and without what the entry says it was given."""
    request = session.get(DeletionRequest, _subject(entry))
    if request is None or request.status not in requests.OPEN:
        return False
    if entry["action"] == "request.approved":
        return requests.cause(request, requests.APPROVAL_NEEDED) is not None
    return request.extended_by < int(json.loads(entry["payload"])["extended_by"])
