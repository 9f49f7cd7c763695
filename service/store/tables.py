"""Every table. "Model" here always means a neural network; a database class is a table."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, LargeBinary, MetaData, String, Table, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.store.types import BigId, UtcDateTime, now

Json = dict[str, Any]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcDateTime, Json: JSON, list[str]: JSON, list[int]: JSON, list[Json]: JSON}  # noqa: RUF012


def table_of(entity: type[Base]) -> Table:
    """Return the table itself: statements on it skip what the mapper would add."""
    return Base.metadata.tables[entity.__tablename__]


class Dataset(Base):
    """A registered source of samples. ``digest`` covers ids, images and labels as they were indexed."""

    __tablename__ = "datasets"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    source: Mapped[Json]
    state: Mapped[str] = mapped_column(String(16))
    num_samples: Mapped[int] = mapped_column(default=0)
    num_classes: Mapped[int] = mapped_column(default=0)
    image_shape: Mapped[list[int] | None]
    digest: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Sample(Base):
    """One row of a dataset. ``sample_id`` is personal data: it goes (NULL) when the sample is erased."""

    __tablename__ = "samples"
    __table_args__ = (
        UniqueConstraint("dataset_id", "sample_id"),
        Index(None, "dataset_id", "split", "label", "id"),
        # Not the state: while no index has it, changing it touches none of them (PostgreSQL).
        Index(None, "dataset_id", "pool"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    sample_id: Mapped[str | None] = mapped_column(Text)
    position: Mapped[int]
    split: Mapped[str] = mapped_column(String(16))
    pool: Mapped[str] = mapped_column(String(16))
    label: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="live")


class Suppression(Base):
    """A keyed hash of an erased id: recognises it if it comes again, says nothing without the key."""

    __tablename__ = "suppressions"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    token: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Model(Base):
    __tablename__ = "models"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"), index=True)
    task: Mapped[str] = mapped_column(String(32))
    architecture: Mapped[str] = mapped_column(String(64))
    architecture_options: Mapped[Json]
    recipe: Mapped[Json | None]
    policy: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Version(Base):
    """One immutable set of weights of a model."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("model_id", "number"), Index(None, "model_id", "state"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    role: Mapped[str] = mapped_column(String(16))
    origin: Mapped[str] = mapped_column(String(16))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("versions.id"))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigId)
    job_id: Mapped[str | None] = mapped_column(String(40))
    evaluation_id: Mapped[str | None] = mapped_column(String(40))
    method: Mapped[str | None] = mapped_column(String(64))
    training_seconds: Mapped[float | None]
    training_samples: Mapped[int] = mapped_column(default=0)
    dataset_digest: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    retired_at: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]


class VersionExclusion(Base):
    """A train sample the version was *not* trained on; everything else in the train pool it was."""

    __tablename__ = "version_exclusions"
    __table_args__ = (Index(None, "sample_id"),)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    sample_id: Mapped[int] = mapped_column(ForeignKey("samples.id"), primary_key=True)


class DeletionRequest(Base):
    __tablename__ = "deletion_requests"
    __table_args__ = (Index(None, "status", "due_at"), Index(None, "dataset_id"))
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    principal_id: Mapped[str] = mapped_column(String(40))
    purpose: Mapped[str] = mapped_column(String(16))
    method: Mapped[str] = mapped_column(String(64))
    method_options: Mapped[Json]
    models: Mapped[list[str] | None]
    scope: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    num_samples: Mapped[int]
    not_found: Mapped[int] = mapped_column(default=0)
    already_erased: Mapped[int] = mapped_column(default=0)
    commitment_root: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    error: Mapped[Json | None]


class RequestSample(Base):
    __tablename__ = "request_samples"
    __table_args__ = (Index(None, "sample_id"),)
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    sample_id: Mapped[int] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(32))


class RequestKey(Base):
    """The random key behind a request's commitments; deleting the row makes them unlinkable."""

    __tablename__ = "request_keys"
    request_id: Mapped[str] = mapped_column(ForeignKey("deletion_requests.id"), primary_key=True)
    key: Mapped[bytes] = mapped_column(LargeBinary(32))


class Job(Base):
    """One piece of work. SQL owns it: the lease, the fence and the progress live here, not in the broker.

    ``method`` is what was asked for, ``rung`` what is being tried, ``rungs`` what was tried before it and how it
    ended. ``policy`` is as it was when the job was queued. The candidate's weights wait for a person to approve them.
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
    """One try of one method by one worker, numbered by the fence it ran under."""

    __tablename__ = "attempts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    fence: Mapped[int] = mapped_column(primary_key=True)
    method: Mapped[str | None] = mapped_column(String(64))
    owner: Mapped[str] = mapped_column(String(200))
    outcome: Mapped[str | None] = mapped_column(String(32))
    error: Mapped[Json | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Evaluation(Base):
    __tablename__ = "evaluations"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    report: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=now)


class EvaluationPlot(Base):
    """One of an evaluation's plots, as the worker drew it."""

    __tablename__ = "evaluation_plots"
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    svg: Mapped[str] = mapped_column(Text)


class ReferenceFile(Base):
    """Where the logits of a model's reference models are. ``rows``: samples of the train and audit pools."""

    __tablename__ = "reference_files"
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    models: Mapped[int]
    rows: Mapped[int]
    job_id: Mapped[str] = mapped_column(String(40))
    made_at: Mapped[datetime]


class PreparedFile(Base):
    """What was made of a version before any request. ``samples``: how many it was made from; it goes with them."""

    __tablename__ = "prepared_files"
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigId)
    samples: Mapped[int]
    seconds: Mapped[float]
    job_id: Mapped[str] = mapped_column(String(40))
    made_at: Mapped[datetime] = mapped_column(default=now)


class Event(Base):
    """What a follower of a request or job is told; progress is read from the job itself."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "request_id", "id"), Index(None, "job_id", "id"))
    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    request_id: Mapped[str | None] = mapped_column(String(40))
    job_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(32))
    data: Mapped[Json]
    time: Mapped[datetime] = mapped_column(default=now)


class ApiKey(Base):
    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    prefix: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """A key's first answer. ``fingerprint`` is a keyed hash of the body; the answer holds no sample ID."""

    __tablename__ = "idempotency_keys"
    principal_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    request_id: Mapped[str] = mapped_column(String(40))
    answer: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(default=now)


class AuditHead(Base):
    """The one row every appender locks, so that numbers have no gaps and no forks."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigId)


class AuditEntry(Base):
    """Append-only, by trigger. ``payload`` and ``time`` are the exact text that was hashed."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "action", "seq"), Index(None, "actor", "seq"))
    seq: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=False)
    time: Mapped[str] = mapped_column(String(32), index=True)
    actor: Mapped[str] = mapped_column(String(100))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(300))
    payload: Mapped[str] = mapped_column(Text)
    leaf_hash: Mapped[str] = mapped_column(String(64))


class AuditLink(Base):
    """Finds entries by what they concern. An index, not evidence: it is not hashed."""

    __tablename__ = "audit_links"
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    ref: Mapped[str] = mapped_column(String(200), primary_key=True)
    seq: Mapped[int] = mapped_column(BigId, ForeignKey("audit_entries.seq"), primary_key=True)


class Worker(Base):
    """A worker's sign of life, for readiness and for operators."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
