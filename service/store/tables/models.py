"""Models, their versions, and what was made of them before any request."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.tables.base import Base, Json
from service.store.types import BigId, now


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
    """One immutable set of weights of a model. ``content_sha256`` covers its tensors alone, not the file's header."""

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
    content_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
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
    """A train sample the version was *not* trained on; everything else in the train pool it was.

    ``cause``: ``forgotten`` stays out of the model's later versions too; ``absent`` was not in the source then.
    """

    __tablename__ = "version_exclusions"
    __table_args__ = (Index(None, "sample_id"),)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    sample_id: Mapped[int] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    cause: Mapped[str] = mapped_column(String(16), default="forgotten", server_default="forgotten")


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
