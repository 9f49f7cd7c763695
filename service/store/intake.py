"""Taking a deletion request in: resolve the ids, find every model that knows them, queue the work. All or nothing.

Everything is read before anything is written: the caller waits for each statement.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Insert, String, bindparam, insert, select
from sqlalchemy.orm import Session

from service import deadlines
from service.errors import Conflict, Fault, InvalidRequest, UnresolvedSamples
from service.evidence import commitments
from service.lifecycle import RequestStatus, SampleState
from service.store import (
    datasets,
    fan_out,
    holds,
    request_keys,
    request_outcomes,
    requests,
    samples,
    settling,
    shares,
    versions,
)
from service.store.fan_out import Concerned, Queued
from service.store.pipelining import pipelined
from service.store.samples import SampleRow
from service.store.tables import (
    Dataset,
    DeletionRequest,
    Job,
    Model,
    RequestKey,
    RequestSample,
    Version,
    table_of,
)
from service.store.types import new_id, now

Target = tuple[Model, list[Version]]
_KEYS = insert(table_of(RequestKey))


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


@dataclass(frozen=True, kw_only=True)
class Accepted:
    request: DeletionRequest
    dataset: Dataset
    unresolved: list[str]
    queued: list[Queued]

    @property
    def jobs(self) -> list[tuple[Job, str]]:
        """Each job with the name of its model."""
        return [(each.job, each.model) for each in self.queued]


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """The keys intake needs, derived once per process."""

    suppression: bytes
    wrapping: bytes
    time_zone: str
    approval_above_share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """The order's ids, sorted by what became of them. ``erased``: those the caller may know to be erased."""

    found: list[SampleRow]
    erased: list[str]
    unresolved: list[str]


def accept(session: Session, order: Order, secrets: Secrets, known: Sequence[Fault] = ()) -> Accepted:
    """Store the request and queue its jobs. ``known``: what is wrong with the order already.

    Raises InvalidRequest or UnresolvedSamples, naming every fault, with nothing to be stored.
    """
    faults = list(known)
    dataset = dataset_of(session, order.dataset, faults)
    targets = targets_of(session, dataset, order.models, faults) if dataset else []
    if dataset is None:
        raise InvalidRequest("The request names a dataset that cannot be used.", faults=faults)
    ids = resolve(session, dataset, order, secrets)
    if not order.report_unresolved:
        faults += not_found(order, ids.unresolved)
    concerned = fan_out.concerned(session, targets, [row.id for row in ids.found if row.pool == "train"])
    lacking = unmet(session, order, concerned, ids.found, faults)
    if faults or lacking:
        raise _refusal([*faults, *lacking], only_work=not faults)
    key = commitments.new_request_key()
    leaves = commitments.in_byte_order(key, (row.sample_id for row in ids.found))
    request = _request(dataset, order, secrets, ids, leaves)
    _announce(session, request, [model for model, _ in targets])
    _hold_if_large(session, request, concerned, ids.found)
    awaits = requests.stops_work(request)
    joinable = {} if awaits else fan_out.joinable(session, request, concerned)
    with pipelined(session):
        _store(session, request, request_keys.row(request.id, key, secrets.wrapping, leaves), ids.found, concerned)
    queued = [] if awaits else fan_out.queue(session, request, concerned, joinable)
    if not queued:
        settling.settle(session, request, suppression_key=secrets.suppression)
    return Accepted(request=request, dataset=dataset, unresolved=ids.unresolved, queued=queued)


def dataset_of(session: Session, name: str, faults: list[Fault], *, lock: bool = True) -> Dataset | None:
    """Return the dataset, locked against other intakes, or add a fault. Raises Conflict for one that is not ready."""
    dataset = session.scalar(_LOCKING if lock else _NAMED, {"name": name})
    if dataset is None:
        faults.append(Fault("/dataset", "dataset_not_found", name, "GET /v1/datasets lists the datasets."))
    elif dataset.state != datasets.READY:
        raise Conflict(f"Dataset {name!r} is {dataset.state}; wait until it is ready.", code="dataset_not_ready")
    return dataset


_NAMED = select(Dataset).where(Dataset.name == bindparam("name"))
_LOCKING = _NAMED.with_for_update()


def targets_of(session: Session, dataset: Dataset, names: Sequence[str] | None, faults: list[Fault]) -> list[Target]:
    """Return the dataset's models, or those named, with their live versions; add a fault for each that is none."""
    registered = versions.live_of_dataset(session, dataset.id)
    if names is None:
        return registered
    by_name = {model.name: (model, live) for model, live in registered}
    detail = f"No model of dataset {dataset.name!r} has this name."
    faults += [
        Fault(f"/models/{index}", "model_not_found", name, detail)
        for index, name in enumerate(names)
        if name not in by_name
    ]
    return [by_name[name] for name in dict.fromkeys(names) if name in by_name]


def resolve(session: Session, dataset: Dataset, order: Order, secrets: Secrets) -> Resolved:
    """Sort the order's ids by what is known of them."""
    rows = samples.resolve(session, dataset.id, order.sample_ids) if order.sample_ids else {}
    missing = [sample_id for sample_id in order.sample_ids if sample_id not in rows]
    erased = samples.suppressed(session, secrets.suppression, dataset.id, missing) if missing else {}
    # To a key that may not read the dataset, an erased id must look like one that never was.
    known = erased if order.may_read_datasets else {}
    return Resolved(
        found=[rows[sample_id] for sample_id in order.sample_ids if sample_id in rows],
        erased=[sample_id for sample_id in missing if sample_id in known],
        unresolved=[sample_id for sample_id in missing if sample_id not in known],
    )


def not_found(order: Order, unresolved: Sequence[str]) -> list[Fault]:
    where = {sample_id: index for index, sample_id in enumerate(order.sample_ids)} if unresolved else {}
    return [Fault(f"/sample_ids/{where[sample_id]}", "not_found_in_dataset", sample_id) for sample_id in unresolved]


def _refusal(faults: list[Fault], *, only_work: bool) -> InvalidRequest:
    if only_work:
        return InvalidRequest("The request cannot be worked on every model concerned.", faults=faults)
    only_ids = all(fault.code == "not_found_in_dataset" for fault in faults)
    kind = UnresolvedSamples if only_ids else InvalidRequest
    return kind("The request cannot be accepted as it is; every fault is listed.", faults=faults)


def unmet(
    session: Session,
    order: Order,
    concerned: list[Concerned],
    found: list[SampleRow],
    known: Sequence[Fault],
) -> list[Fault]:
    """Return why the order's method cannot be used on the models concerned: nothing, where it can.

    ``known``: what is wrong with the order already. Nothing more can be said of a method that does not exist.
    """
    if any(fault.pointer == "/method" for fault in known):
        return []
    keys = [row.id for row in found]
    return [
        fault
        for model in concerned
        for fault in fan_out.unmet(session, order.method, model, keys, purpose=order.purpose)
    ]


def _hold_if_large(
    session: Session, request: DeletionRequest, concerned: list[Concerned], found: list[SampleRow]
) -> None:
    bound = request.approval_above_share
    classes = shares.Classes.of_rows(found)
    reasons = shares.above_bounds(session, concerned, purpose=request.purpose, above_share=bound, classes=classes)
    if reasons:
        holds.await_approval(session, request, reasons)


def _request(dataset: Dataset, order: Order, secrets: Secrets, ids: Resolved, leaves: list[bytes]) -> DeletionRequest:
    received = order.received_at or now()
    due_at = deadlines.due(received, secrets.time_zone) if order.purpose == "privacy" else None
    return DeletionRequest(
        id=new_id("req"),
        dataset_id=dataset.id,
        principal_id=order.principal_id,
        purpose=order.purpose,
        method=order.method,
        method_options=order.method_options,
        models=list(order.models) if order.models is not None else None,
        scope="partial" if order.models is not None else "full",
        status=RequestStatus.RECEIVED,
        num_samples=len(ids.found) + len(ids.erased),
        not_found=len(ids.unresolved),
        already_erased=len(ids.erased),
        commitment_root=commitments.merkle_root(leaves).hex(),
        received_at=received,
        due_at=due_at,
        next_mark_at=deadlines.next_mark(received, due_at, after=0) if due_at else None,
        approval_above_share=secrets.approval_above_share,
    )


def _announce(session: Session, request: DeletionRequest, targets: list[Model]) -> None:
    counts = {
        "num_samples": request.num_samples,
        "not_found": request.not_found,
        "already_erased": request.already_erased,
    }
    facts = {"purpose": request.purpose, "method": request.method, "commitment_root": request.commitment_root}
    requests.note(session, request, "request.received", {**counts, **facts})
    policies = {model.name: fan_out.frozen_policy(model, request.purpose).digest for model in targets}
    clock = {
        "received_at": request.received_at.isoformat(),
        "due_at": request.due_at.isoformat() if request.due_at else None,
        "overdue": requests.is_overdue(request),
    }
    requests.move(session, request, RequestStatus.ACCEPTED, scope=request.scope, policies=policies, **clock)


def _store(
    session: Session,
    request: DeletionRequest,
    key_row: dict[str, Any],
    found: list[SampleRow],
    concerned: list[Concerned],
) -> None:
    known = frozenset[int]().union(*(model.keys for model in concerned))
    session.add(request)
    session.flush()
    session.execute(_KEYS, key_row)
    _name_samples(session, request, [row.id for row in found if row.id in known], request_outcomes.PENDING)
    _name_samples(
        session, request, [row.id for row in found if row.id not in known], request_outcomes.PENDING_NOT_TRAINED_ON
    )
    samples.set_state(session, [row.id for row in found if row.state == SampleState.LIVE], SampleState.PENDING)


def _name_samples(session: Session, request: DeletionRequest, keys: list[int], outcome: str) -> None:
    if keys:
        listed = samples.packed(session, keys)
        values = {"of_request": request.id, "outcome": outcome, "listed": listed}
        session.execute(_naming(samples.dialect_of(session)), values)


@cache
def _naming(dialect: str) -> Insert:
    # One statement over the keys: a row of parameters per sample costs more than the rows themselves.
    constants = bindparam("of_request", type_=String), bindparam("outcome", type_=String)
    named = select(constants[0], samples.listing(dialect, BigInteger).c.value, constants[1])
    return insert(table_of(RequestSample)).from_select(["request_id", "sample_id", "outcome"], named)


def unresolved_again(session: Session, order: Order, secrets: Secrets, *, first_at: datetime) -> list[str]:
    """Return what a call's first answer, given at ``first_at``, listed as unresolved.

    No id was stored with the answer, so they are looked up anew. An id that was erased since was resolved then: it
    is not listed, or a key that may not read the dataset would learn what became of it.
    """
    if not order.report_unresolved:
        return []
    dataset = datasets.by_name(session, order.dataset)
    unresolved = resolve(session, dataset, order, secrets).unresolved
    since = samples.suppressed(session, secrets.suppression, dataset.id, unresolved, since=first_at)
    return [sample_id for sample_id in unresolved if sample_id not in since]
