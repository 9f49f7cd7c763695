"""Which checkpoint a job's training can be gone on with from, and which are of no more use."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY, JobKind, JobStatus, SampleState
from service.store.tables import Attempt, Job, Sample, TrainingCheckpoint
from service.store.types import now

_UNDER_WAY = (JobStatus.QUEUED, *JOB_BUSY)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a checkpoint is of: an order by its digest, and the samples that could be read when it was made."""

    order_sha256: str
    training_set: str
    ordered_at: datetime


@dataclass(frozen=True, kw_only=True)
class Useless:
    """A checkpoint that is to be deleted, and why."""

    job_id: str
    sha256: str
    reason: str


def of_job(session: Session, job_id: str) -> TrainingCheckpoint | None:
    """Return the newest checkpoint of the job's training."""
    return session.get(TrainingCheckpoint, job_id)


def training_set(session: Session, job: Job) -> str:
    """Return what changes whenever a sample that the job might train on comes or goes."""
    live = (Sample.dataset_id == job.dataset_id, Sample.state == SampleState.LIVE)
    # Reference models are trained on held-out samples as well.
    pool = () if job.kind == JobKind.PREPARE else (Sample.pool == "train",)
    count, total = session.execute(select(func.count(), func.sum(Sample.id)).where(*live, *pool)).one()
    return f"{count}:{int(total or 0)}"


def record(session: Session, job: Job, binding: Binding, *, sha256: str, size: int, epochs: int) -> str | None:
    """Name these bytes as the job's newest checkpoint; return the digest of those that were."""
    row = of_job(session, job.id)
    before = None if row is None else row.sha256
    if row is None:
        row = TrainingCheckpoint(job_id=job.id)
        session.add(row)
    row.sha256, row.size_bytes, row.epochs = sha256, size, epochs
    row.order_sha256, row.training_set, row.ordered_at = binding.order_sha256, binding.training_set, binding.ordered_at
    row.fence, row.made_at = job.fence, now()
    return before


def useless(session: Session) -> list[Useless]:
    """Return the checkpoints of jobs that are over, and those whose training set is another by now."""
    rows = session.execute(
        select(TrainingCheckpoint, Job).join(Job, Job.id == TrainingCheckpoint.job_id).order_by(Job.id)
    ).all()
    found = [(row, _why_useless(session, row, job)) for row, job in rows]
    return [Useless(job_id=row.job_id, sha256=row.sha256, reason=why) for row, why in found if why is not None]


def _why_useless(session: Session, row: TrainingCheckpoint, job: Job) -> str | None:
    if job.status not in _UNDER_WAY:
        return "job_over"
    return None if training_set(session, job) == row.training_set else "training_set_changed"


def stale_of(session: Session, dataset_id: str) -> list[TrainingCheckpoint]:
    """Return the checkpoints of trainings on the dataset whose training set is another by now."""
    rows = session.execute(
        select(TrainingCheckpoint, Job)
        .join(Job, Job.id == TrainingCheckpoint.job_id)
        .where(Job.dataset_id == dataset_id)
        .order_by(Job.id)
    ).all()
    return [row for row, job in rows if training_set(session, job) != row.training_set]


def resumed_from(session: Session, job_id: str) -> Sequence[int]:
    """Return how many epochs were done each time that the job's training went on, oldest first."""
    query = select(Attempt.resumed_from).where(Attempt.job_id == job_id, Attempt.resumed_from.is_not(None))
    return [epochs for epochs in session.scalars(query.order_by(Attempt.fence)) if epochs is not None]
