"""How much one key may ask for within any 24 hours, counted from the requests that are stored.

Every stored request counts, whatever became of it. A replay of an idempotent call stores nothing and counts nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Forbidden, ServiceError, TooManyRequests
from service.store.tables import ApiKey, DeletionRequest
from service.store.types import now

WINDOW = timedelta(days=1)
What = Literal["requests", "sample IDs"]


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Most in any 24 hours; None: no bound."""

    requests: int | None
    sample_ids: int | None

    @classmethod
    def of(cls, own: Mapping[str, int], *, requests_per_day: int, sample_ids_per_day: int) -> "Quotas":
        """Return a key's own quotas, over the settings' where it has none; of the latter 0 means none."""
        return cls(
            requests=own.get("requests_per_day") or requests_per_day or None,
            sample_ids=own.get("sample_ids_per_day") or sample_ids_per_day or None,
        )


def check(session: Session, principal_id: str, quotas: Quotas, *, sample_ids: int) -> None:
    """Raise TooManyRequests, or Forbidden where no waiting helps, unless one more request is within the quotas.

    No statement without a quota. Requests of one key are judged one after the other: the key's row is locked.
    """
    if quotas.requests is None and quotas.sample_ids is None:
        return
    session.execute(select(ApiKey.id).where(ApiKey.id == principal_id).with_for_update(key_share=True))
    found = refusal(session, principal_id, quotas, sample_ids=sample_ids)
    if found is not None:
        raise found


def refusal(session: Session, principal_id: str, quotas: Quotas, *, sample_ids: int) -> ServiceError | None:
    """Return why one more request with so many ids is over a quota; None if it is not."""
    named = DeletionRequest.num_samples + DeletionRequest.not_found
    recent = (DeletionRequest.principal_id == principal_id, DeletionRequest.created_at > now() - WINDOW)
    count, ids = session.execute(select(func.count(), func.coalesce(func.sum(named), 0)).where(*recent)).one()
    bounds: tuple[tuple[What, int | None, int, int], ...] = (
        ("requests", quotas.requests, count, 1),
        ("sample IDs", quotas.sample_ids, ids, sample_ids),
    )
    over = [(what, most, used, more) for what, most, used, more in bounds if most is not None and used + more > most]
    if not over:
        return None
    times = session.execute(select(DeletionRequest.created_at, named).where(*recent).order_by("created_at")).all()
    found = [_refusal(what, most, used, more, times) for what, most, used, more in over]
    # The one that lasts longest: what is free of the other by then is of no use before.
    return max(found, key=_lasts)


def _refusal(what: What, most: int, used: int, more: int, times: Iterable[tuple[datetime, int]]) -> ServiceError:
    facts = {"quota": what.lower().replace(" ", "_") + "_per_day", "limit": most, "used": used}
    if more > most:
        detail = f"The key may name {most} {what} within 24 hours, and this request alone names {more}; name fewer."
        return _with(Forbidden(detail, code="quota_exceeded"), **facts)
    frees_at = _frees_at(what, used + more - most, times)
    detail = (
        f"The key has asked for {used} {what} within 24 hours and may ask for {most}; this would be {more} more. "
        f"There is room for it from {frees_at.isoformat(timespec='seconds')} on."
    )
    seconds = max(1, int((frees_at - now()).total_seconds()) + 1)
    return _with(TooManyRequests(detail, retry_after=seconds), **facts, frees_at=frees_at.isoformat())


def _lasts(error: ServiceError) -> float:
    """Return for how many seconds the refusal stands."""
    waits = error.retry_after if isinstance(error, TooManyRequests) else None
    return float("inf") if waits is None else waits


def _with(error: ServiceError, **facts: object) -> ServiceError:
    error.extra |= facts
    return error


def _frees_at(what: What, too_many: int, times: Iterable[tuple[datetime, int]]) -> datetime:
    """Return when so many have left the window, the oldest first."""
    for created_at, ids in times:
        too_many -= 1 if what == "requests" else ids
        if too_many <= 0:
            return created_at + WINDOW
    return now() + WINDOW
