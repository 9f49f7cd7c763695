"""What a request's document says of its jobs: a few of a job's many columns, with one statement that is built once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Select, String, select
from sqlalchemy.orm import Session

from service.store import samples
from service.store.tables import Job, JobRequest, Model, Version


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownJob:
    """A job as a request shows it. ``version``: the number of the one it published."""

    id: str
    model: str
    status: str
    on_hold: bool
    version: int | None
    evaluation_id: str | None
    error: dict[str, Any] | None

    @classmethod
    def new(cls, job: Job, model: str) -> "ShownJob":
        """Return what is shown of a job that has published nothing yet."""
        return cls(
            id=job.id,
            model=model,
            status=job.status,
            on_hold=job.on_hold,
            version=None,
            evaluation_id=job.evaluation_id,
            error=job.error,
        )


def of_each(session: Session, request_ids: Sequence[str]) -> dict[str, list[ShownJob]]:
    """Return the jobs of each request, oldest first."""
    found: dict[str, list[ShownJob]] = {request_id: [] for request_id in request_ids}
    dialect = samples.dialect_of(session)
    for row in session.execute(_of_each(dialect), {"listed": samples.packed(session, request_ids)}):
        fields = row._asdict()
        found[fields.pop("request_id")].append(ShownJob(**fields))
    return found


@cache
def _of_each(dialect: str) -> Select[Any]:
    return (
        select(JobRequest.request_id, Job.id, Model.name.label("model"), Job.status, Job.on_hold)
        .add_columns(Version.number.label("version"), Job.evaluation_id, Job.error)
        .join(Job, Job.id == JobRequest.job_id)
        .join(Model, Model.id == Job.model_id)
        .outerjoin(Version, Version.id == Job.version_id)
        .where(samples.among(dialect, JobRequest.request_id, String))
        .order_by(Job.id)
    )
