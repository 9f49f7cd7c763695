"""Which checkpoint a job's training can be gone on with from, and which are of no more use."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Update, func, select, update
from sqlalchemy.orm import Session

from service.lifecycle import JOB_BUSY, JobKind, JobStatus, SampleState
from service.store import position_sets
from service.store import readable as readable_samples
from service.store.samples import one_of
from service.store.tables import Attempt, Job, Model, Sample, TrainingCheckpoint
from service.store.types import now

_UNDER_WAY = (JobStatus.QUEUED, *JOB_BUSY)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """What a checkpoint is of: an order by its digest, and the samples that could be read when it was made, packed."""

    order_sha256: str
    positions: bytes
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


def readable(session: Session, job: Job) -> bytes:
    """Return the places of the samples that the job might train on, packed."""
    may_be = select(Sample.position).where(*_of_pools(job), _readable(session, job))
    return position_sets.pack(session.scalars(may_be.order_by(Sample.position)))


def lost_any(session: Session, job: Job, positions: bytes) -> bool:
    """Say whether one of the samples at these places may not be read any more.

    A sample that came since is no matter here: the checkpoint does not know it, and the next order is another one.
    """
    gone = select(Sample.position).where(*_of_pools(job), ~_readable(session, job))
    return position_sets.holds_any(positions, session.scalars(gone))


def _of_pools(job: Job) -> tuple[ColumnElement[bool], ...]:
    # Reference models are trained on held-out samples as well.
    pool = () if job.kind == JobKind.PREPARE else (Sample.pool == "train",)
    return (Sample.dataset_id == job.dataset_id, *pool)


def _readable(session: Session, job: Job) -> ColumnElement[bool]:
    # Reference models are prepared of what is live for everyone.
    if job.kind == JobKind.PREPARE or job.model_id is None:
        return Sample.state == SampleState.LIVE
    return readable_samples.by(session, session.get_one(Model, job.model_id))


def record(session: Session, job: Job, binding: Binding, *, sha256: str, size: int, epochs: int) -> str | None:
    """Name these bytes as the job's newest checkpoint; return the digest of those that were."""
    row = of_job(session, job.id)
    before = None if row is None else row.sha256
    if row is None:
        row = TrainingCheckpoint(job_id=job.id)
        session.add(row)
    row.sha256, row.size_bytes, row.epochs = sha256, size, epochs
    row.order_sha256, row.ordered_at = binding.order_sha256, binding.ordered_at
    row.positions, row.training_set = binding.positions, hashlib.sha256(binding.positions).hexdigest()
    row.fence, row.made_at = job.fence, now()
    session.execute(_under_way(job).values(checkpoint_error=None))
    return before


def _under_way(job: Job) -> Update:
    return update(Attempt).where(Attempt.job_id == job.id, Attempt.fence == job.fence)


def note_not_kept(session: Session, job: Job, code: str) -> None:
    """Count a state of the training that could not be kept, and say why."""
    failed = func.coalesce(Attempt.checkpoints_not_kept, 0) + 1
    session.execute(_under_way(job).values(checkpoint_error=code, checkpoints_not_kept=failed))


def not_kept(session: Session, job: Job) -> tuple[str, int] | None:
    """Return why the newest state of the training under way is not kept, and how many were not; None where it is."""
    if job.status not in JOB_BUSY:
        return None
    attempt = session.get(Attempt, (job.id, job.fence))
    if attempt is None or attempt.checkpoint_error is None:
        return None
    return attempt.checkpoint_error, attempt.checkpoints_not_kept or 0


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
    if row.positions is None:
        return "training_set_unknown"
    return "training_set_changed" if lost_any(session, job, row.positions) else None


def stale_of(session: Session, dataset_id: str) -> list[TrainingCheckpoint]:
    """Return the checkpoints of trainings on the dataset that know, or may know, what may not be read any more."""
    rows = session.execute(
        select(TrainingCheckpoint, Job)
        .join(Job, Job.id == TrainingCheckpoint.job_id)
        .where(Job.dataset_id == dataset_id)
        .order_by(Job.id)
    ).all()
    return [row for row, job in rows if row.positions is None or lost_any(session, job, row.positions)]


def knows(session: Session, row: TrainingCheckpoint, keys: Sequence[int], *, named_at: datetime) -> bool:
    """Say whether the training has read one of the samples with these keys, which a request named at that time.

    Of a row that does not say it, its age tells: what was ordered after the request could not read them.
    """
    if row.positions is None:
        return row.ordered_at <= named_at
    at = session.scalars(select(Sample.position).where(one_of(session, Sample.id, keys)))
    return position_sets.holds_any(row.positions, at)


def resumed_from(session: Session, job_id: str) -> Sequence[int]:
    """Return how many epochs were done each time that the job's training went on, oldest first."""
    query = select(Attempt.resumed_from).where(Attempt.job_id == job_id, Attempt.resumed_from.is_not(None))
    return [epochs for epochs in session.scalars(query.order_by(Attempt.fence)) if epochs is not None]
