"""What a forecast needs of the store: the queue in the order of claims, and how long past jobs took."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service import forecast
from service.forecast import Work
from service.lifecycle import JOB_BUSY, JOB_DONE, JOB_OVER, JobKind, JobStatus
from service.store import jobs, workers
from service.store.shown_jobs import ShownJob
from service.store.tables import Job
from service.store.types import now

# A longer queue is not played through: its forecast would be of no use, and would cost the caller a second.
MOST_AHEAD = 1_000
PAST_JOBS = 20
KEPT_SECONDS = 1.0
_GOING = frozenset({*JOB_BUSY, JobStatus.QUEUED})
Kind = tuple[str, str | None, str | None]


@dataclass(frozen=True, kw_only=True)
class _Played:
    """The queue played through at a time of the monotonic clock. ``seen``: its jobs; ``cut``: it was longer."""

    at: float
    seen: frozenset[str]
    cut: bool
    done: Mapping[str, datetime]


class QueueForecasts:
    """The forecasts of one process. The queue played through says of all jobs at once, so it is kept for a moment.

    A job that was not in the queue then has it played again; what else changed meanwhile is missing for a second.
    """

    def __init__(self) -> None:
        self._played = _Played(at=-math.inf, seen=frozenset(), cut=False, done={})

    def of_jobs(self, session: Session, jobs: Sequence[ShownJob], *, sign_of_life_seconds: float) -> datetime | None:
        """Return when the last of a request's jobs will probably be done; None where that cannot be told.

        ``sign_of_life_seconds``: how long ago a worker that still counts may have been heard of.
        """
        waiting = [job.id for job in jobs if job.status not in JOB_OVER]
        if not waiting or any(job.on_hold or job.status not in _GOING for job in jobs if job.id in waiting):
            return None
        played = self._played
        known = played.cut or played.seen.issuperset(waiting)
        if not known or time.monotonic() - played.at > KEPT_SECONDS:
            played = self._played = _play(session, sign_of_life_seconds)
        found = [played.done.get(job_id) for job_id in waiting]
        return max((each for each in found if each is not None), default=None) if None not in found else None


def _play(session: Session, sign_of_life_seconds: float) -> _Played:
    moment = now()
    alive = workers.alive(session, within_seconds=sign_of_life_seconds)
    works = _works(session, moment)
    done = forecast.finish_times(works, workers=alive, at=moment)
    seen = frozenset(work.job_id for work in works)
    return _Played(at=time.monotonic(), seen=seen, cut=len(works) >= MOST_AHEAD, done=done)


def _works(session: Session, moment: datetime) -> list[Work]:
    columns = (Job.id, Job.kind, Job.model_id, Job.method, Job.status, Job.rung, Job.not_before)
    busy = session.execute(select(*columns, Job.started_at).where(Job.status.in_(JOB_BUSY))).all()
    queued = session.execute(
        select(*columns, Job.started_at)
        .where(Job.status == JobStatus.QUEUED, Job.on_hold.is_(False))
        .order_by(*jobs.CLAIM_ORDER)
        .limit(MOST_AHEAD)
    ).all()
    known = past(session, {row.model_id for row in (*busy, *queued) if row.model_id is not None})
    return [
        Work(
            job_id=row.id,
            model=row.model_id,
            seconds=known.get((row.kind, row.model_id, row.method)) or known.get((row.kind, row.model_id, None), []),
            running_for=_since(row.started_at, moment) if row.status in JOB_BUSY else None,
            not_before=row.not_before,
        )
        for row in (*busy, *queued)
    ]


def _since(start: datetime | None, moment: datetime) -> float:
    return max((moment - (start or moment)) / timedelta(seconds=1), 0.0)


def past(session: Session, models: set[str]) -> dict[Kind, list[float]]:
    """Return how long the last jobs of each model took, by kind and by method, from being taken up to their end.

    Where a method was never used on a model, the key without a method holds what others took there.
    """
    newest_first = func.row_number().over(partition_by=(Job.kind, Job.model_id, Job.method), order_by=Job.id.desc())
    recent = (
        select(Job.kind, Job.model_id, Job.method, Job.started_at, Job.finished_at)
        .add_columns(newest_first.label("place"))
        .where(
            Job.model_id.in_(models),
            Job.status.in_(JOB_DONE),
            # An erasure that is merely completed found nothing to do; one that was approved waited for a person.
            or_(Job.status == JobStatus.PUBLISHED, Job.kind != JobKind.ERASE),
            Job.approved_by.is_(None),
            Job.started_at.is_not(None),
        )
        .subquery()
    )
    found: dict[Kind, list[float]] = {}
    for row in session.execute(select(recent).where(recent.c.place <= PAST_JOBS)):
        took = _since(row.started_at, row.finished_at)
        found.setdefault((row.kind, row.model_id, row.method), []).append(took)
        if row.method is not None:
            found.setdefault((row.kind, row.model_id, None), []).append(took)
    return found
