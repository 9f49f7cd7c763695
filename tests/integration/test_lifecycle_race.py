"""What two processes can do to one job at once: claim and cancel, publish late, index under a lost lease."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from service.errors import Conflict
from service.lifecycle import JobKind, JobStatus, RequestStatus, SampleState
from service.store import cancel, datasets, intake, jobs, models, requests, samples
from service.store.intake import Secrets
from service.store.jobs import Claim, LeaseLost
from service.store.tables import AuditEntry, DeletionRequest, Job, Sample, Version
from service.store.types import now
from tests import factories
from workers import publish, publish_prepared, sweeper
from workers.bench import Bench
from workers.order_parts import Prepared

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    return {"lease_seconds": 20, "max_attempts": 2}


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


def _ask(bench: Bench, name: str, *named: str, **changes: Any) -> tuple[str, list[str]]:
    with bench.database.writing() as session:
        accepted = intake.accept(session, factories.order(name, *named, **changes), SECRETS)
        return accepted.request.id, [job.id for job, _ in accepted.jobs]


def _claim(bench: Bench) -> Claim:
    found = jobs.claim_next(bench.database, owner="test", lease_seconds=20)
    assert found is not None
    return found


def _let_the_lease_run_out(bench: Bench, claim: Claim) -> None:
    with bench.database.writing() as session:
        past = now() - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == claim.job_id).values(lease_until=past))
    sweeper.sweep(bench, lambda _: None)


def _train_job(bench: Bench, name: str) -> str:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        return jobs.create(session, JobKind.TRAIN, dataset_id=model.dataset_id, model_id=model.id).id


def _publish(bench: Bench, claim: Claim, excluded: list[int] | None = None) -> None:
    digest = hashlib.sha256(f"{claim.job_id}{claim.fence}".encode()).hexdigest()
    prepared = Prepared(order={}, excluded_keys=excluded or [])
    with bench.database.writing() as session:
        publish.trained(session, claim, prepared, {"info": {"seconds": 1.0}}, (digest, 4096), [])


def _versions(bench: Bench, name: str) -> int:
    with bench.database.reading() as session:
        model = models.by_name(session, name)
        return session.scalar(select(func.count()).where(Version.model_id == model.id)) or 0


@pytest.mark.parametrize("turn", range(6))
def test_of_claiming_and_cancelling_at_once_one_wins(bench: Bench, name: str, turn: int) -> None:
    request_id, (job_id,) = _ask(bench, name, f"train-{turn}")

    def withdraw() -> bool:
        try:
            with bench.database.writing() as session:
                cancel.cancel(session, request_id)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        withdrawing = pool.submit(withdraw)
        claiming = pool.submit(jobs.claim_next, bench.database, owner="w", lease_seconds=20)
        cancelled, claim = withdrawing.result(), claiming.result()
    assert bool(cancelled) != bool(claim)
    with bench.database.reading() as session:
        request, job = session.get_one(DeletionRequest, request_id), session.get_one(Job, job_id)
        state = session.scalar(select(Sample.state).where(Sample.sample_id == f"{name}-train-{turn}"))
    expected = ("cancelled", "cancelled", "live") if cancelled else ("in_progress", "running", "pending")
    assert (request.status, job.status, state) == expected


def test_publishing_under_an_old_fence_leaves_no_trace(bench: Bench, name: str) -> None:
    job_id = _train_job(bench, name)
    old = _claim(bench)
    assert old.job_id == job_id
    _let_the_lease_run_out(bench, old)
    with pytest.raises(LeaseLost):
        _publish(bench, old)
    new = _claim(bench)
    assert (new.job_id, new.fence) == (job_id, old.fence + 1)
    with pytest.raises(LeaseLost):
        _publish(bench, old)
    assert _versions(bench, name) == 1
    _publish(bench, new)
    assert _versions(bench, name) == 2
    with pytest.raises(LeaseLost):
        _publish(bench, new)
    with bench.database.reading() as session:
        subject = AuditEntry.subject == f"job/{job_id}"
        actions = list(session.scalars(select(AuditEntry.action).where(subject).order_by(AuditEntry.seq)))
    assert actions.count("job.published") == 1
    assert actions.count("job.claimed") == 2


def test_two_publishers_of_one_fence_make_one_version(bench: Bench, name: str) -> None:
    _train_job(bench, name)
    claim = _claim(bench)

    def late() -> bool:
        try:
            _publish(bench, claim)
        except LeaseLost:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: late(), range(2)))
    assert sorted(outcomes) == [False, True]
    assert _versions(bench, name) == 2


def test_a_job_whose_workers_keep_dying_fails_its_request_in_the_end(bench: Bench, name: str) -> None:
    request_id, (job_id,) = _ask(bench, name, "train-0")
    for _ in range(bench.settings.max_attempts):
        _let_the_lease_run_out(bench, _claim(bench))
    with bench.database.reading() as session:
        assert session.get_one(Job, job_id).status == JobStatus.POISONED
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.FAILED
    assert jobs.claim_next(bench.database, owner="w", lease_seconds=20) is None


def test_a_sample_erased_during_training_keeps_the_weights_unpublished(bench: Bench, name: str) -> None:
    _train_job(bench, name)
    claim = _claim(bench)
    with bench.database.writing() as session:
        key = session.scalar(select(Sample.id).where(Sample.sample_id == f"{name}-train-0"))
        assert key is not None
        samples.set_state(session, [key], SampleState.ERASED)
    with pytest.raises(publish_prepared.TrainingSetChanged):
        _publish(bench, claim)
    assert _versions(bench, name) == 1
    _publish(bench, claim, excluded=[key])
    assert _versions(bench, name) == 2


def test_a_version_trained_while_a_request_came_in_is_caught_by_it(bench: Bench, name: str) -> None:
    other = name + "late"
    factories.model(bench, other, of=name)
    _train_job(bench, other)
    claim = _claim(bench)
    request_id, queued = _ask(bench, name, "train-0")
    assert len(queued) == 1
    _publish(bench, claim)
    with bench.database.reading() as session:
        found = requests.jobs(session, [request_id])[request_id]
    assert sorted(model for _, model in found) == sorted([name, other])


def test_models_are_worked_side_by_side_and_the_earliest_due_first(bench: Bench, name: str) -> None:
    urgent = name + "urgent"
    factories.dataset(bench, urgent)
    factories.model(bench, urgent, of=urgent)
    factories.version(bench, urgent)
    _, first = _ask(bench, name, "train-0")
    _, other = _ask(bench, name, "train-1", method_options={"epochs": 1})
    _, early = _ask(bench, urgent, "train-0", received_at=now() - timedelta(days=20))
    bell = [_claim(bench).job_id for _ in range(2)]
    assert bell == [early[0], first[0]]
    assert jobs.claim_next(bench.database, owner="w", lease_seconds=20) is None, "the model is busy"
    assert other != first


def test_indexing_under_a_lost_lease_declares_nothing_ready(bench: Bench, name: str) -> None:
    with bench.database.writing() as session:
        dataset = datasets.register(session, name=name + "i", source={"source": "npz"})
        jobs.create(session, JobKind.INDEX, dataset_id=dataset.id)
    old = _claim(bench)
    _let_the_lease_run_out(bench, old)
    rows = bench.settings.data_dir / "rows"
    rows.write_text('["a", "train", "train", 0]\n["b", "train", "train", 1]\n')
    facts = {"digest": "0" * 64, "num_samples": 2, "num_classes": 2, "image_shape": [1, 2, 2]}
    with pytest.raises(LeaseLost):
        publish.index(bench.database, old, facts, rows)
    new = _claim(bench)
    publish.index(bench.database, new, facts, rows)
    with bench.database.reading() as session:
        found = datasets.ready(session, name + "i")
        assert samples.count_by_split(session, found.id) == {"train": 2}
