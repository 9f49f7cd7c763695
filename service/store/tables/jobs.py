"""Jobs, their attempts, what attempts measured, and who works."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


class Job(Base):
    """One piece of work. SQL owns it: the lease, the fence and the progress live here, not in the broker.

    ``method`` is what was asked for, ``rung`` what is being tried, ``rungs`` what was tried before it and how it
    ended. ``policy`` is as it was when the job was queued. The candidate's weights wait for a person to approve them.
    ``on_hold``: it waits in the queue until a person lets its request go on.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "uq_jobs_one_busy_per_model",
            "model_id",
            unique=True,
            sqlite_where=text("status IN ('running', 'evaluating')"),
            postgresql_where=text("status IN ('running', 'evaluating')"),
        ),
        Index(None, "status", "due_at"),
        Index(None, "model_id", "status"),
    )
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    version_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    purpose: Mapped[str | None] = mapped_column(String(16))
    method: Mapped[str | None] = mapped_column(String(64))
    method_options: Mapped[Json | None]
    policy: Mapped[Json | None]
    policy_digest: Mapped[str | None] = mapped_column(String(64))
    rung: Mapped[str | None] = mapped_column(String(64))
    rungs: Mapped[list[Json]] = mapped_column(default=list)
    candidate_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    candidate_size: Mapped[int | None] = mapped_column(BigId)
    approved_by: Mapped[str | None] = mapped_column(String(100))
    not_before: Mapped[datetime | None]
    on_hold: Mapped[bool] = mapped_column(default=False)
    seed: Mapped[int] = mapped_column(BigId)
    due_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]
    phase: Mapped[str | None] = mapped_column(String(64))
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    error: Mapped[Json | None]
    evaluation_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobRequest(Base):
    __tablename__ = "job_requests"
    __table_args__ = (Index(None, "request_id"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)


class Attempt(Base):
    """One try of one method by one worker, numbered by the fence it ran under.

    ``resumed_from``: the epochs that were done when it went on with the training of an attempt before.
    ``checkpoint_error``: why the newest state of its training could not be kept; None once a later one is.
    """

    __tablename__ = "attempts"
    __table_args__ = (Index(None, "outcome", "method"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    method: Mapped[str | None] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(200))
    outcome: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[Json | None]
    resumed_from: Mapped[int | None]
    checkpoints_not_kept: Mapped[int | None]
    checkpoint_error: Mapped[str | None] = mapped_column(String(64))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Evaluation(Base):
    """``report``: without the figures of single requests where it has `parts`; they are `EvaluationFigure`."""

    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    report: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=now)


class EvaluationFigure(Base):
    """What an evaluation measured on the samples of one of the requests that share it.

    ``index``: its place in the report's tree. ``proof``: the path from there to the root.
    """

    __tablename__ = "evaluation_figures"
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    index: Mapped[int]
    figure: Mapped[Json]
    proof: Mapped[list[str]]


class EvaluationPlot(Base):
    """One of an evaluation's plots, as the worker drew it."""

    __tablename__ = "evaluation_plots"
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    svg: Mapped[str] = mapped_column(Text)


class Worker(Base):
    """A worker's sign of life, for readiness and for operators.

    ``leaves_work_since``: it works on nothing, though there has been a job since then that it could take.
    """

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    leaves_work_since: Mapped[datetime | None]
    gpu_memory_used: Mapped[int | None] = mapped_column(BigId)
    gpu_memory_total: Mapped[int | None] = mapped_column(BigId)
