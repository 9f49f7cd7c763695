"""What people decided about a request and wrote about it: kept beside the request, for as long as its key is.

The log holds a commitment to the words and none of them.
"""

import hmac
import re
import secrets
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service.errors import Fault, InvalidRequest
from service.store import samples, traces
from service.store.tables import DeletionRequest, RequestDecision, RequestSample, Sample
from service.store.types import new_id


def of_request(session: Session, request: DeletionRequest) -> list[RequestDecision]:
    """Return what was decided, oldest first."""
    query = select(RequestDecision).where(RequestDecision.request_id == request.id)
    return list(session.scalars(query.order_by(RequestDecision.id)))


def keep(
    session: Session,
    request: DeletionRequest,
    kind: str,
    *,
    by: str,
    months: int | None = None,
    reason: str | None = None,
    note: str | None = None,
    pointer: str = "",
) -> dict[str, Any]:
    """Store a decision; return what the log says of its note, which stood at ``pointer``. Raises InvalidRequest."""
    decision = RequestDecision(id=new_id("dec"), request_id=request.id, kind=kind, by=by, months=months, reason=reason)
    session.add(decision)
    if note is None:
        return {}
    _refuse_named_samples(session, request, note, pointer)
    decision.note, decision.note_key = note, secrets.token_bytes(32)
    return {"note_commitment": commitment(decision.note_key, note)}


def commitment(note_key: bytes, note: str) -> str:
    """Return what stands in the log for the note; whoever is given both can compute it too."""
    return hmac.digest(note_key, note.encode(), "sha256").hex()


def forget(session: Session, request_id: str) -> None:
    """Delete what was written about the request; what was decided, when and by whom stays."""
    written = update(RequestDecision).where(
        RequestDecision.request_id == request_id, RequestDecision.note_key.is_not(None)
    )
    found = session.execute(written.values(note=None, note_key=None).returning(RequestDecision.id))
    if found.first() is not None:
        traces.note(session, RequestDecision.__tablename__)


def _refuse_named_samples(session: Session, request: DeletionRequest, text: str, pointer: str) -> None:
    """Raise InvalidRequest if the text names a sample of the request, as a word of its own."""
    within = func.instr if samples.dialect_of(session) == "sqlite" else func.strpos
    found = session.scalars(
        select(Sample.sample_id)
        .join(RequestSample, RequestSample.sample_id == Sample.id)
        .where(RequestSample.request_id == request.id, within(text, Sample.sample_id) > 0)
    )
    if any(re.search(rf"(?<!\w){re.escape(sample_id)}(?!\w)", text) for sample_id in found if sample_id):
        detail = "The text names a sample of the request, which is personal data; say it without."
        raise InvalidRequest(detail, faults=[Fault(pointer, "names_a_sample", None, detail)])
