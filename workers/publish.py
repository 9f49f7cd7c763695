"""The transaction at the end of each attempt, under its fence: all of it happens, or none."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from service.lifecycle import JobKind, JobStatus, SampleState, VersionState
from service.store import (
    attaching,
    candidates,
    datasets,
    events,
    jobs,
    preparations,
    references,
    reindexing,
    requests,
    retirement,
    samples,
    settling,
    versions,
)
from service.store.jobs import Claim
from service.store.session import Database
from service.store.tables import Dataset, Job, Model, Sample, Version
from workers.attempt_end import finish, give_up
from workers.ladder import Rung, is_exact
from workers.order_parts import Prepared
from workers.publish_evaluation import record_evaluation
from workers.publish_prepared import Kept, Stored, TrainingSetChanged, keep

_NOTHING_LEFT = {
    JobKind.TRAIN: "retain_data_gone",
    JobKind.PREPARE: "retain_data_gone",
    JobKind.TRIM: "no_reference_logits",
    JobKind.PREPARE_VERSION: "version_left_circulation_or_knows_samples_of_an_open_request",
}


def index(database: Database, claim: Claim, result: dict[str, Any], rows: Path) -> None:
    """Write the sample rows in chunks, so that no lock lasts long, then declare the dataset ready."""
    with database.writing() as session:
        dataset_id = jobs.hold_lease(session, claim).dataset_id
        session.execute(delete(Sample).where(Sample.dataset_id == dataset_id))
    with rows.open() as file:
        start = 0
        while lines := list(islice(file, samples.INSERT_CHUNK)):
            with database.writing() as session:
                jobs.hold_lease(session, claim)
                samples.insert_many(session, _sample_rows(dataset_id, lines, start))
            start += len(lines)
    with database.writing() as session:
        job = jobs.hold_lease(session, claim)
        datasets.mark_ready(session, session.get_one(Dataset, dataset_id), **result)
        finish(session, claim, job, JobStatus.COMPLETED, "job.completed")


def reindexed(session: Session, claim: Claim, result: dict[str, Any], rows: Path, suppression_key: bytes) -> str:
    """Take a source in again, and return the dataset's id. Raises ReindexRefused, TrainingSetChanged, LeaseLost."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    if reindexing.others_busy(session, job):  # claimed in the same instant as this one
        raise TrainingSetChanged
    dataset = session.get_one(Dataset, job.dataset_id, populate_existing=True)
    with rows.open() as file:
        reindexing.apply(session, dataset, map(tuple, map(json.loads, file)), result, suppression_key=suppression_key)
    finish(session, claim, job, JobStatus.COMPLETED, "job.completed")
    return dataset.id


def _sample_rows(dataset_id: str, lines: list[str], start: int) -> list[dict[str, Any]]:
    return [
        {
            "dataset_id": dataset_id,
            "sample_id": sample_id,
            "position": start + offset,
            "split": split,
            "pool": pool,
            "label": label,
            "state": SampleState.LIVE,
        }
        for offset, (sample_id, split, pool, label) in enumerate(map(json.loads, lines))
    ]


def trained(
    session: Session, claim: Claim, prepared: Prepared, result: dict[str, Any], weights: Stored, files: Sequence[Kept]
) -> None:
    """Publish an original and what came with its training. Raises TrainingSetChanged, LeaseLost."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    erased_since = exists().where(
        Sample.dataset_id == job.dataset_id,
        Sample.pool == "train",
        Sample.state == SampleState.ERASED,
        ~samples.one_of(session, Sample.id, prepared.excluded_keys),
    )
    if session.scalar(select(erased_since)):
        raise TrainingSetChanged
    model = session.get_one(Model, job.model_id)
    version = versions.create(
        session,
        model,
        state=VersionState.ACTIVE,
        role="original",
        origin="trained",
        sha256=weights[0],
        size_bytes=weights[1],
        job_id=job.id,
        training_seconds=result["info"].get("seconds"),
    )
    versions.exclude(session, version, prepared.excluded_keys)
    versions.count_training(session, version, job.dataset_id)
    job.version_id = version.id
    keep(session, job, version, files)
    finish(session, claim, job, JobStatus.PUBLISHED, "job.published", version=version.number, sha256=weights[0])
    references.ask_where_policy_says(session, model)
    attaching.attach_open_requests(session, model)
    preparations.ask_where_policy_says(session, model, version)


def validated(session: Session, claim: Claim, faults: list[str]) -> None:
    """Put an uploaded version into circulation, or reject it with the reasons."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    version, model = session.get_one(Version, job.version_id), session.get_one(Model, job.model_id)
    if not faults and versions.was_retired(session, version.sha256, version.content_sha256):
        # Retired while they were being checked.
        faults = [versions.RETIRED_DIGEST]
    if faults:
        version.error = {
            "code": "weights_rejected",
            "detail": "The weights do not fit.",
            "errors": faults[:100],
        }
        versions.move(session, version, VersionState.REJECTED, faults=len(faults))
    else:
        versions.move(session, version, VersionState.ACTIVE)
    finish(session, claim, job, JobStatus.COMPLETED, "job.completed", faults=len(faults))
    if not faults:
        references.ask_where_policy_says(session, model)
    attaching.attach_open_requests(session, model)
    if not faults:
        preparations.ask_where_policy_says(session, model, version)


def erased(
    session: Session,
    claim: Claim,
    prepared: Prepared,
    result: dict[str, Any],
    weights: Stored,
    files: Sequence[Kept],
    suppression_key: bytes,
) -> None:
    """Publish the unlearned version, retire every version that knows the samples, settle the requests."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    evaluation = record_evaluation(session, job, prepared, result, sha256=weights[0])
    version = _circulate(session, claim, job, prepared, weights, evaluation.id)
    keep(session, job, version, files)
    _settle(session, job, session.get_one(Model, job.model_id), suppression_key)
    preparations.ask_where_policy_says(session, session.get_one(Model, job.model_id), version)


def approved(session: Session, claim: Claim, prepared: Prepared, suppression_key: bytes) -> None:
    """Publish the candidate that a person approved although its gate did not pass it.

    For whoever holds the candidate's digest: that comes before the job (docs/lock-order.md).
    """
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    weights = str(job.candidate_sha256), int(job.candidate_size or 0)
    version = _circulate(session, claim, job, prepared, weights, str(job.evaluation_id))
    candidates.published(session, job)
    _settle(session, job, session.get_one(Model, job.model_id), suppression_key)
    preparations.ask_where_policy_says(session, session.get_one(Model, job.model_id), version)


def _circulate(
    session: Session, claim: Claim, job: Job, prepared: Prepared, weights: Stored, evaluation_id: str
) -> Version:
    model, parent = session.get_one(Model, job.model_id), session.get_one(Version, prepared.parent_id)
    method, (sha256, size) = str(job.rung), weights
    version = versions.create(
        session,
        model,
        state=VersionState.ACTIVE,
        role="retrained" if is_exact(method) else "unlearned",
        origin="erasure",
        sha256=sha256,
        size_bytes=size,
        parent=parent,
        job_id=job.id,
        method=method,
        training_seconds=parent.training_seconds,
    )
    versions.exclude(session, version, prepared.excluded_keys, like=parent)
    versions.count_training(session, version, job.dataset_id)
    version.evaluation_id = evaluation_id
    retirement.retire_tainted(session, model, version, prepared.forget_keys, job)
    job.version_id, job.parent_id = version.id, parent.id
    told = {"job": job.id, "model": model.name, "version": version.number, "sha256": sha256}
    events.emit(session, "published", told, job_id=job.id)
    made = {"model": model.name, "version": version.number, "sha256": sha256}
    finish(session, claim, job, JobStatus.PUBLISHED, "job.published", **made)
    return version


def climbed(
    session: Session,
    claim: Claim,
    prepared: Prepared,
    rung: Rung,
    *,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
) -> None:
    """Queue the job for the next method, after one whose model did not pass or that found none to return."""
    job = jobs.hold_lease(session, claim)
    if result is not None:
        record_evaluation(session, job, prepared, result)
    else:
        job.rungs = [*job.rungs, {"method": job.rung, "verdict": "failed", "sentence": (error or {}).get("detail")}]
    verdict = job.rungs[-1]["verdict"]
    jobs.end_attempt(session, claim, f"gate_{verdict}" if result else "failed", error)
    jobs.note(session, job, "job.attempt_finished", {"outcome": verdict, "method": job.rung, "fence": claim.fence})
    told = {"method": job.rung, "verdict": verdict, "next": rung.method, "reason": rung.reason}
    jobs.move(session, job, JobStatus.QUEUED, "job.escalated", **told)
    # A new method starts with a clean count: the cap is on attempts that end without a result.
    job.attempts, job.rung_at = 0, None


def held(
    session: Session,
    claim: Claim,
    prepared: Prepared,
    result: dict[str, Any],
    weights: Stored,
    suppression_key: bytes,
    *,
    why: str,
) -> None:
    """Keep a model that did not pass for a person to approve, or to have the work tried again."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    record_evaluation(session, job, prepared, result, sha256=weights[0])
    candidates.keep(session, job, sha256=weights[0], size=weights[1])
    job.parent_id = prepared.parent_id
    error = {"code": why, "detail": result["report"]["gate"]["sentence"]}
    jobs.end_attempt(session, claim, str(JobStatus.HELD), error)
    give_up(session, job, error, suppression_key, status=JobStatus.HELD)


def nothing_left(session: Session, claim: Claim, suppression_key: bytes) -> None:
    """End a job that found nothing to do: no version in circulation knows its samples, or no file holds them."""
    job = jobs.hold_lease(session, claim)
    datasets.lock(session, job.dataset_id)
    reason = _NOTHING_LEFT.get(JobKind(job.kind), "no_version_knows_the_samples")
    finish(session, claim, job, JobStatus.COMPLETED, "job.completed", reason=reason)
    _settle(session, job, session.get_one(Model, job.model_id), suppression_key)


def _settle(session: Session, job: Job, model: Model, suppression_key: bytes) -> None:
    session.flush()
    # An upload may have come in since the claim: it knows the samples too, so its own erasure must come first.
    attaching.attach_open_requests(session, model, suppression_key=suppression_key)
    settling.settle_all(session, requests.of_job(session, job.id), suppression_key=suppression_key)
