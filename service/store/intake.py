"""Taking a deletion request in: resolve the ids, find every model that knows them, queue the work. All or nothing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Insert, String, bindparam, exists, func, insert, literal, or_, select
from sqlalchemy.orm import Session

from service import deadlines
from service.catalogue.methods import METHODS
from service.errors import Conflict, Fault, InvalidRequest, UnresolvedSamples
from service.evidence import commitments
from service.evidence.leaf import canonical
from service.lifecycle import JOB_STUCK, JobKind, RequestStatus, SampleState, VersionState
from service.store import datasets, jobs, models, requests, samples, versions
from service.store.samples import SampleRow
from service.store.tables import (
    Dataset,
    DeletionRequest,
    Job,
    JobRequest,
    Model,
    RequestKey,
    RequestSample,
    Sample,
    Version,
    VersionExclusion,
    table_of,
)
from service.store.types import new_id, now


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the caller asked for, already checked for shape."""

    dataset: str
    sample_ids: Sequence[str]
    purpose: str
    method: str
    method_options: dict[str, Any]
    models: Sequence[str] | None
    report_unresolved: bool
    received_at: datetime | None
    principal_id: str
    may_read_datasets: bool


@dataclass(kw_only=True)
class Accepted:
    request: DeletionRequest
    dataset: Dataset
    unresolved: list[str]
    jobs: list[tuple[Job, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """The keys intake needs, derived once per process."""

    suppression: bytes
    time_zone: str


def policy_digest(policy: dict[str, Any]) -> str:
    """Return the digest under which a policy is frozen into the log."""
    return hashlib.sha256(canonical(policy)).hexdigest()


def accept(session: Session, order: Order, secrets: Secrets, known: Sequence[Fault] = ()) -> Accepted:
    """Store the request and queue its jobs. ``known``: what is wrong with the order already.

    Raises InvalidRequest or UnresolvedSamples, naming every fault, with nothing to be stored.
    """
    faults = list(known)
    dataset = _dataset(session, order.dataset, faults)
    targets = _targets(session, dataset, order.models, faults) if dataset else []
    if dataset is None:
        raise InvalidRequest("The request names a dataset that cannot be used.", faults=faults)
    found, erased, unresolved = _resolve(session, dataset, order, secrets, faults)
    if faults:
        only_ids = all(fault.code == "not_found_in_dataset" for fault in faults)
        kind = UnresolvedSamples if only_ids else InvalidRequest
        raise kind("The request cannot be accepted as it is; every fault is listed.", faults=faults)
    request = _insert(session, dataset, order, secrets, found, targets, erased=len(erased), not_found=len(unresolved))
    accepted = Accepted(request=request, dataset=dataset, unresolved=unresolved)
    _fan_out_to_all(session, accepted, targets, [row.id for row in found])
    if not accepted.jobs:
        requests.settle(session, request, suppression_key=secrets.suppression)
    return accepted


def _fan_out_to_all(session: Session, accepted: Accepted, targets: list[Model], keys: list[int]) -> None:
    faults: list[Fault] = []
    for model in targets:
        try:
            job = fan_out(session, accepted.request, model, keys)
        except InvalidRequest as error:
            faults += error.faults
            continue
        if job is not None:
            accepted.jobs.append((job, model.name))
    if faults:
        raise InvalidRequest("The request cannot be worked on every model concerned.", faults=faults)


def _dataset(session: Session, name: str, faults: list[Fault]) -> Dataset | None:
    dataset = session.scalar(select(Dataset).where(Dataset.name == name).with_for_update())
    if dataset is None:
        faults.append(Fault("/dataset", "dataset_not_found", name, "GET /v1/datasets lists the datasets."))
    elif dataset.state != datasets.READY:
        raise Conflict(f"Dataset {name!r} is {dataset.state}; wait until it is ready.", code="dataset_not_ready")
    return dataset


def _targets(session: Session, dataset: Dataset, names: Sequence[str] | None, faults: list[Fault]) -> list[Model]:
    registered = models.of_dataset(session, dataset.id)
    if names is None:
        return registered
    by_name = {model.name: model for model in registered}
    for index, name in enumerate(names):
        if name not in by_name:
            faults.append(
                Fault(
                    f"/models/{index}",
                    "model_not_found",
                    name,
                    f"No model of dataset {dataset.name!r} has this name.",
                )
            )
    return [by_name[name] for name in dict.fromkeys(names) if name in by_name]


def _resolve(
    session: Session, dataset: Dataset, order: Order, secrets: Secrets, faults: list[Fault]
) -> tuple[list[SampleRow], list[str], list[str]]:
    rows = samples.resolve(session, dataset.id, order.sample_ids) if order.sample_ids else {}
    missing = [sample_id for sample_id in order.sample_ids if sample_id not in rows]
    erased = samples.suppressed(session, secrets.suppression, dataset.id, missing) if missing else set()
    # To a key that may not read the dataset, an erased id must look like one that never was.
    known = erased if order.may_read_datasets else set()
    unresolved = [sample_id for sample_id in missing if sample_id not in known]
    if unresolved and not order.report_unresolved:
        where = {sample_id: index for index, sample_id in enumerate(order.sample_ids)}
        faults += [
            Fault(f"/sample_ids/{where[sample_id]}", "not_found_in_dataset", sample_id) for sample_id in unresolved
        ]
    return [rows[i] for i in order.sample_ids if i in rows], [i for i in missing if i in known], unresolved


def _insert(
    session: Session,
    dataset: Dataset,
    order: Order,
    secrets: Secrets,
    found: list[SampleRow],
    targets: list[Model],
    *,
    erased: int,
    not_found: int,
) -> DeletionRequest:
    received = order.received_at or now()
    key = commitments.new_request_key()
    root = commitments.commitment_root(key, (row.sample_id for row in found)).hex()
    request = DeletionRequest(
        id=new_id("req"),
        dataset_id=dataset.id,
        principal_id=order.principal_id,
        purpose=order.purpose,
        method=order.method,
        method_options=order.method_options,
        models=list(order.models) if order.models is not None else None,
        scope="partial" if order.models is not None else "full",
        status=RequestStatus.RECEIVED,
        num_samples=len(order.sample_ids) - not_found,
        not_found=not_found,
        already_erased=erased,
        commitment_root=root,
        received_at=received,
        due_at=deadlines.due(received, secrets.time_zone) if order.purpose == "privacy" else None,
    )
    session.add(request)
    _announce(session, request, targets)
    session.flush()
    session.execute(insert(RequestKey).values(request_id=request.id, key=key))
    _name_samples(session, request, [row.id for row in found])
    return request


def _announce(session: Session, request: DeletionRequest, targets: list[Model]) -> None:
    counts = {
        "num_samples": request.num_samples,
        "not_found": request.not_found,
        "already_erased": request.already_erased,
    }
    facts = {"purpose": request.purpose, "method": request.method, "commitment_root": request.commitment_root}
    requests.note(session, request, "request.received", {**counts, **facts})
    policies = {model.name: policy_digest(model.policy) for model in targets}
    due = request.due_at.isoformat() if request.due_at else None
    requests.move(session, request, RequestStatus.ACCEPTED, scope=request.scope, policies=policies, due_at=due)


def _name_samples(session: Session, request: DeletionRequest, keys: list[int]) -> None:
    statement = _naming(samples.dialect_of(session))
    session.execute(statement, {"of_request": request.id, "listed": samples.packed(session, keys)})
    samples.set_state(session, keys, SampleState.PENDING)


@cache
def _naming(dialect: str) -> Insert:
    # One statement over the keys: a row of parameters per sample costs more than the rows themselves.
    outcome = literal(requests.PENDING_NOT_TRAINED_ON, String)
    columns = (bindparam("of_request", type_=String), Sample.id, outcome)
    named = select(*columns).where(samples.among(dialect, Sample.id, BigInteger))
    table = table_of(RequestSample)
    return insert(table).from_select(["request_id", "sample_id", "outcome"], named)


def fan_out(session: Session, request: DeletionRequest, model: Model, keys: Sequence[int]) -> Job | None:
    """Queue, or join, the job that removes the samples from a model; None if no version knows them.

    Raises InvalidRequest when the method cannot work on this model, before anything is committed.
    """
    tainted = [(v, known) for v in versions.live(session, model.id) if (known := versions.trained_on(session, v, keys))]
    if not tainted:
        return None
    _check_needs(session, request, model, tainted[-1][0], [key for key, _ in tainted[-1][1]])
    known_keys = sorted({key for _, known in tainted for key, _ in known})
    requests.mark_trained_on(session, request, known_keys)
    if model.policy.get("stop_serving") == "immediately" and request.purpose == "privacy":
        for version, _ in tainted:
            if version.state == VersionState.ACTIVE:
                versions.move(session, version, VersionState.QUARANTINED, reason="deletion_request", request=request.id)
    settings = {
        "model_id": model.id,
        "purpose": request.purpose,
        "method": request.method,
        "policy_digest": policy_digest(model.policy),
    }
    job = jobs.gathering(session, options=request.method_options, **settings)
    if job is None:
        job = jobs.create(
            session,
            JobKind.ERASE,
            dataset_id=model.dataset_id,
            method_options=request.method_options,
            **settings,
        )
    jobs.link(session, job, request)
    return job


def _check_needs(
    session: Session, request: DeletionRequest, model: Model, version: Version, keys: Sequence[int]
) -> None:
    spec = METHODS[request.method]
    faults: list[Fault] = []
    if "recipe" in spec.needs and model.recipe is None:
        faults.append(
            Fault(
                "/method",
                "method_needs_not_met",
                request.method,
                f"{request.method!r} needs a training recipe, and model {model.name!r} has none.",
            )
        )
    if not _anything_left(session, model.dataset_id, version):
        faults.append(
            Fault(
                "/sample_ids",
                "forget_set_is_whole_training_set",
                len(keys),
                f"Nothing of model {model.name!r}'s training set would be left; delete the model instead.",
            )
        )
    elif spec.needs_in_class_retain:
        emptied = _emptied_classes(session, version, keys, model.dataset_id)
        faults += [Fault("/sample_ids", "class_left_without_samples", label) for label in emptied]
    if faults:
        raise InvalidRequest(f"The request cannot be worked on model {model.name!r}.", faults=faults)


_LEFT = (
    select(Sample.id)
    .where(
        Sample.dataset_id == bindparam("dataset"),
        Sample.pool == "train",
        Sample.state == SampleState.LIVE,
        ~exists().where(VersionExclusion.version_id == bindparam("version"), VersionExclusion.sample_id == Sample.id),
    )
    .limit(1)
)


def _anything_left(session: Session, dataset_id: str, version: Version) -> bool:
    """Say whether the version was trained on any sample that no request names; stops at the first."""
    return session.scalar(_LEFT, {"dataset": dataset_id, "version": version.id}) is not None


def _emptied_classes(session: Session, version: Version, keys: Sequence[int], dataset_id: str) -> list[int]:
    excluded = select(VersionExclusion.sample_id).where(VersionExclusion.version_id == version.id)
    labels = session.scalars(select(Sample.label).where(samples.one_of(session, Sample.id, keys)).distinct())
    left = session.execute(
        select(Sample.label, func.count())
        .where(
            Sample.dataset_id == dataset_id,
            Sample.pool == "train",
            Sample.state == SampleState.LIVE,
            Sample.id.not_in(excluded),
        )
        .group_by(Sample.label)
    )
    kept = {label for label, count in left if count}
    return sorted(set(labels) - kept)


def attach_open_requests(session: Session, model: Model) -> list[str]:
    """Queue the erasures that requests still open need on a version that has just come into being."""
    waiting = session.scalars(
        select(DeletionRequest).where(
            DeletionRequest.dataset_id == model.dataset_id, DeletionRequest.status.in_(requests.OPEN)
        )
    )
    queued = []
    for request in waiting.all():
        if request.models is not None and model.name not in request.models:
            continue
        if _has_open_job(session, request, model):
            continue
        job = fan_out(session, request, model, requests.sample_keys(session, [request.id])[request.id])
        if job is not None:
            queued.append(job.id)
    return queued


def _has_open_job(session: Session, request: DeletionRequest, model: Model) -> bool:
    query = (
        select(Job.id)
        .join(JobRequest, JobRequest.job_id == Job.id)
        # A job that is stuck waits for a person; queueing another beside it would go over their head.
        .where(
            JobRequest.request_id == request.id,
            Job.model_id == model.id,
            or_(Job.finished_at.is_(None), Job.status.in_(JOB_STUCK)),
        )
    )
    return session.scalar(query.limit(1)) is not None


def unresolved_again(session: Session, order: Order, secrets: Secrets) -> list[str]:
    """Return the unresolved ids of a repeated call; they were not stored, so they are looked up anew."""
    if not order.report_unresolved:
        return []
    dataset = datasets.by_name(session, order.dataset)
    return _resolve(session, dataset, order, secrets, [])[2]
