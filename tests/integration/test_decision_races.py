"""What a person decides in the instant in which a worker claims or publishes: one of the two wins, whole."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from service.errors import Conflict
from service.lifecycle import JobStatus, RequestStatus, SampleState
from service.store import decisions, intake, jobs, models, versions
from service.store.intake import Secrets
from service.store.jobs import Claim, LeaseLost
from service.store.tables import DeletionRequest, Job, Sample, Version
from service.store.types import now
from tests import factories
from workers import publish
from workers.bench import Bench
from workers.order_parts import Prepared

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
REPORT: dict[str, Any] = {
    "method": "finetune",
    "metrics": [],
    "gate": {"verdict": "pass", "sentence": "-"},
    "seconds": {"unlearning": 1.0, "evaluation": 1.0},
}


@pytest.fixture
def request_id(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A request for one sample of a model of the test's own, which nobody has claimed."""
    name = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, name)
    factories.model(bench, name, of=name)
    factories.version(bench, name)
    order = factories.order(name, "train-0", models=[name])
    with bench.database.writing() as session:
        return intake.accept(session, order, SECRETS).request.id


def _read(bench: Bench, request_id: str) -> tuple[DeletionRequest, Job, list[str], str | None]:
    """Return the request, its job, the states of the model's versions, and the sample's state."""
    with bench.database.reading() as session:
        request = session.get_one(DeletionRequest, request_id)
        name = str((request.models or [""])[0])
        model = models.by_name(session, name)
        (job,) = session.scalars(select(Job).where(Job.model_id == model.id))
        states = session.scalars(select(Version.state).where(Version.model_id == model.id).order_by(Version.number))
        sample = session.scalar(select(Sample.state).where(Sample.sample_id == f"{name}-train-0"))
        return request, job, list(states), sample


def _deny(bench: Bench, request_id: str) -> bool:
    try:
        with bench.database.writing() as session:
            decisions.deny(session, request_id, reason="no_match", note=None, by="key_test")
    except Conflict:
        return False
    return True


def _hold(bench: Bench, request_id: str) -> bool:
    try:
        with bench.database.writing() as session:
            decisions.hold(session, request_id, note="wait", by="key_test")
    except Conflict:
        return False
    return True


def _claim(bench: Bench) -> Claim | None:
    return jobs.claim_next(bench.database, owner="w", lease_seconds=60)


def _publish(bench: Bench, claim: Claim) -> bool:
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        key = session.scalars(
            select(Sample.id).where(Sample.dataset_id == job.dataset_id, Sample.sample_id.like("%-train-0"))
        ).one()
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=[key], excluded_keys=[key])
    digest = hashlib.sha256(claim.job_id.encode()).hexdigest()
    try:
        with bench.database.writing() as session:
            jobs.hold_lease(session, claim).rung = "finetune"
            publish.erased(session, claim, prepared, {"report": REPORT}, (digest, 4096), [], SECRETS.suppression)
    except LeaseLost:
        return False
    return True


DECIDE = pytest.mark.parametrize("decide", [_deny, _hold])
Decide = Callable[[Bench, str], bool]


@DECIDE
@pytest.mark.parametrize("turn", range(3))
def test_what_is_decided_as_a_worker_claims_leaves_it_nothing_to_publish(
    bench: Bench, request_id: str, decide: Decide, turn: int
) -> None:
    with ThreadPoolExecutor(2) as pool:
        deciding, claiming = pool.submit(decide, bench, request_id), pool.submit(_claim, bench)
        claim = claiming.result()
        assert deciding.result()
    assert claim is None or not _publish(bench, claim)
    request, job, states, sample = _read(bench, request_id)
    assert states == ["active"]
    if decide is _deny:
        assert (request.status, job.status, sample) == (RequestStatus.DENIED, JobStatus.CANCELLED, SampleState.LIVE)
    else:
        assert (request.status, job.status, sample) == (RequestStatus.ON_HOLD, JobStatus.QUEUED, SampleState.PENDING)
        assert (job.on_hold, job.attempts) == (True, 0)


@DECIDE
@pytest.mark.parametrize("turn", range(3))
def test_of_deciding_and_publishing_at_once_one_wins(bench: Bench, request_id: str, decide: Decide, turn: int) -> None:
    claim = _claim(bench)
    assert claim is not None
    with ThreadPoolExecutor(2) as pool:
        deciding, publishing = pool.submit(decide, bench, request_id), pool.submit(_publish, bench, claim)
        assert deciding.result() != publishing.result()
    request, job, states, _ = _read(bench, request_id)
    if publishing.result():
        assert (request.status, job.status, states) == ("completed", "published", ["retired", "active"])
    else:
        assert (request.status, states) == ("denied" if decide is _deny else "on_hold", ["active"])
