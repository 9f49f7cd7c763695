"""How long the samples of a forget set may still be read, to audit the versions that come after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.lifecycle import JobKind, JobStatus, SampleState
from service.store.tables import DeletionRequest, Job, JobRequest, Model, RequestSample, Sample
from service.store.types import now


@dataclass(frozen=True, kw_only=True)
class EarlierForgetSet:
    """A forget set of an earlier version: its evaluation, its size, and the positions that may still be read."""

    evaluation_id: str | None
    num_samples: int
    positions: list[int]


def days_of(model: Model) -> int:
    """Return the audit retention of a model's policy, in days."""
    return int(model.policy.get("audit_retention_days", 0))


def longest(session: Session, dataset_id: str) -> int:
    """Return the longest audit retention of the dataset's models, in days."""
    return max((days_of(model) for model in _models(session, dataset_id)), default=0)


def last_over(session: Session, dataset_id: str, *, days: int) -> datetime | None:
    """Return when the last request was completed whose retention is over; None if there is none."""
    query = select(func.max(DeletionRequest.completed_at)).where(
        DeletionRequest.dataset_id == dataset_id, DeletionRequest.completed_at <= now() - timedelta(days=days)
    )
    return session.scalar(query)


def gone_positions(session: Session, dataset_id: str, *, days: int, at: datetime | None = None) -> list[int]:
    """Return the positions of erased samples whose retention is over, now or at another time, in order."""
    kept = (
        select(RequestSample.sample_id)
        .join(DeletionRequest, DeletionRequest.id == RequestSample.request_id)
        # No other request erases an id, so none other says how long it may be read.
        .where(
            DeletionRequest.purpose == "privacy",
            DeletionRequest.scope == "full",
            DeletionRequest.completed_at > (at or now()) - timedelta(days=days),
        )
    )
    query = select(Sample.position).where(Sample.dataset_id == dataset_id, Sample.state == SampleState.ERASED)
    if days:
        # What the source has no more cannot be read, whatever may be.
        query = query.where(or_(Sample.id.not_in(kept), Sample.source_row == -1))
    return list(session.scalars(query.order_by(Sample.position)))


def over(session: Session, request_ids: Sequence[str], *, days: int, at: datetime | None = None) -> set[str]:
    """Return those of the completed requests whose retention is over, now or at another time."""
    done = DeletionRequest.completed_at <= (at or now()) - timedelta(days=days)
    return set(session.scalars(select(DeletionRequest.id).where(DeletionRequest.id.in_(request_ids), done)))


def earlier_forget_sets(session: Session, model: Model, *, but: Job) -> list[EarlierForgetSet]:
    """Return what the model's versions had to forget before, oldest first; the job itself is left out."""
    gone = set(gone_positions(session, model.dataset_id, days=days_of(model)))
    published = session.scalars(
        select(Job)
        .where(Job.model_id == model.id, Job.kind == JobKind.ERASE, Job.status == JobStatus.PUBLISHED, Job.id != but.id)
        .order_by(Job.finished_at)
    )
    found = []
    for job in published:
        positions = session.scalars(
            select(Sample.position)
            .join(RequestSample, RequestSample.sample_id == Sample.id)
            .join(JobRequest, JobRequest.request_id == RequestSample.request_id)
            .where(JobRequest.job_id == job.id, Sample.pool == "train")
            .order_by(Sample.position)
            .distinct()
        ).all()
        readable = [position for position in positions if position not in gone]
        found.append(EarlierForgetSet(evaluation_id=job.evaluation_id, num_samples=len(positions), positions=readable))
    return found


def _models(session: Session, dataset_id: str) -> Sequence[Model]:
    return session.scalars(select(Model).where(Model.dataset_id == dataset_id)).all()
