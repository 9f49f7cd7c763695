"""What a worker records of files beside the weights: reference models' logits, and preparations of a version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.lifecycle import JobStatus, SampleState
from service.store import datasets, jobs, preparations, references, samples
from service.store.jobs import Claim
from service.store.tables import Job, Model, Sample, Version
from workers.attempt_end import finish
from workers.order_parts import Prepared

Stored = tuple[str, int]
"""SHA-256 and size of bytes that the artifact store holds."""


class TrainingSetChanged(Exception):
    """A sample was erased while a model was being trained on it; the weights may not be published."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A preparation whose bytes the artifact store holds. ``samples``: how many it was made from."""

    name: str
    stored: Stored
    samples: int
    seconds: float


def keep(session: Session, job: Job, version: Version, files: Sequence[Kept]) -> None:
    """Name the files as what was prepared of the version."""
    for file in files:
        sha256, size = file.stored
        preparations.record(
            session,
            job,
            version,
            name=file.name,
            sha256=sha256,
            size=size,
            samples=file.samples,
            seconds=file.seconds,
        )


def version_prepared(session: Session, claim: Claim, files: Sequence[Kept]) -> None:
    """Name the files as what was prepared of the job's version; if it left circulation, they are swept away.

    Raises LeaseLost.
    """
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    version, model = session.get_one(Version, job.version_id), session.get_one(Model, job.model_id)
    usable = preparations.can_be_prepared(session, model, version)
    if usable:
        keep(session, job, version, files)
    finish(session, claim, job, JobStatus.COMPLETED, "job.completed", version=version.number, kept=usable)


def references_made(session: Session, claim: Claim, prepared: Prepared, result: dict[str, Any], sha256: str) -> None:
    """Name the reference logits prepared, or rid of rows. Raises TrainingSetChanged, LeaseLost."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    order = prepared.order or {}
    read = [*order.get("pool", []), *order.get("population", [])]
    erased_since = exists().where(
        Sample.dataset_id == job.dataset_id,
        Sample.state == SampleState.ERASED,
        samples.one_of(session, Sample.position, read),
    )
    if read and session.scalar(select(erased_since)):
        raise TrainingSetChanged
    made_at = None
    if prepared.as_of is not None:
        model = session.get_one(Model, job.model_id)
        made_at = references.trimmed_at(session, model, removed=order["positions"], as_of=prepared.as_of)
    counts = {"models": result["models"], "rows": result["rows"]}
    references.record(session, job, sha256=sha256, **counts, made_at=made_at)
    finish(session, claim, job, JobStatus.COMPLETED, "job.completed", sha256=sha256, models=result["models"])
