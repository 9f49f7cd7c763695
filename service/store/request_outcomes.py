"""What became of each id that a deletion request names, and how many of its ids share an outcome."""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Select, String, func, select, update
from sqlalchemy.orm import Session

from service.store import samples
from service.store.tables import DeletionRequest, RequestSample

# Until the request is completed nothing is claimed: both kinds of pending show as ``pending``.
PENDING, PENDING_NOT_TRAINED_ON = "pending", "pending_not_trained_on"
ERASED, NOT_TRAINED_ON = "erased", "erased_not_trained_on"
# A request narrowed to some models can say nothing of the others, which may know the samples.
ERASED_FROM_NAMED, NOT_TRAINED_ON_BY_NAMED = "erased_from_named_models", "not_trained_on_by_named_models"


def of_request(session: Session, request: DeletionRequest) -> dict[str, int]:
    """Return how many of the named ids have which outcome."""
    return of_each(session, [request])[request.id]


def of_each(session: Session, found: Sequence[DeletionRequest]) -> dict[str, dict[str, int]]:
    """Return the same of each request by its id, with one statement."""
    listed = samples.packed(session, [request.id for request in found])
    rows = session.execute(_counting(samples.dialect_of(session)), {"listed": listed})
    counts: dict[str, dict[str, int]] = {request.id: {} for request in found}
    for request_id, outcome, count in rows:
        counts[request_id][outcome] = count
    return {request.id: _told(request, counts[request.id]) for request in found}


@cache
def _counting(dialect: str) -> Select[str, str, int]:
    return (
        select(RequestSample.request_id, RequestSample.outcome, func.count())
        .where(samples.among(dialect, RequestSample.request_id, String))
        .group_by(RequestSample.request_id, RequestSample.outcome)
    )


def _told(request: DeletionRequest, counts: dict[str, int]) -> dict[str, int]:
    pending = counts.pop(PENDING, 0) + counts.pop(PENDING_NOT_TRAINED_ON, 0)
    return {**_counts(request, pending=pending), **counts}


def at_start(request: DeletionRequest) -> dict[str, int]:
    """Return what `of_request` would for a request whose work has not begun, without reading."""
    return _counts(request, pending=request.num_samples - request.already_erased)


def _counts(request: DeletionRequest, *, pending: int) -> dict[str, int]:
    counts = {PENDING: pending, ERASED: 0, NOT_TRAINED_ON: 0}
    if request.scope == "partial":
        counts |= {ERASED_FROM_NAMED: 0, NOT_TRAINED_ON_BY_NAMED: 0}
    return {**counts, "already_erased": request.already_erased, "not_found": request.not_found}


def mark_trained_on(session: Session, found: Sequence[DeletionRequest], keys: Sequence[int]) -> None:
    """Note that some model was trained on these samples, in each of the open requests that names them."""
    session.execute(
        update(RequestSample)
        .where(
            samples.one_of(session, RequestSample.request_id, [request.id for request in found]),
            samples.one_of(session, RequestSample.sample_id, keys),
            RequestSample.outcome == PENDING_NOT_TRAINED_ON,
        )
        .values(outcome=PENDING)
        .execution_options(synchronize_session=False)
    )


def confirm(session: Session, found: Sequence[DeletionRequest]) -> None:
    """Turn what is pending of requests that are complete into what became of it."""
    for partial in (False, True):
        ids = [request.id for request in found if (request.scope == "partial") == partial]
        outcome_of = {
            PENDING: ERASED_FROM_NAMED if partial else ERASED,
            PENDING_NOT_TRAINED_ON: NOT_TRAINED_ON_BY_NAMED if partial else NOT_TRAINED_ON,
        }
        for pending, outcome in outcome_of.items() if ids else ():
            session.execute(
                update(RequestSample)
                .where(samples.one_of(session, RequestSample.request_id, ids), RequestSample.outcome == pending)
                .values(outcome=outcome)
            )
