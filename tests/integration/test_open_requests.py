"""What becomes of open requests while versions come and go, jobs get stuck, and people step in."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.lifecycle import JobKind, JobStatus, RequestStatus, VersionState
from service.store import attaching, audit, cancel, intake, jobs, models, request_outcomes, requests, versions
from service.store.intake import Order, Secrets
from service.store.jobs import Claim
from service.store.tables import DeletionRequest, Job, JobRequest, Version
from service.store.types import now
from tests import factories
from workers import attempt_end, publish
from workers.bench import Bench
from workers.order_parts import Prepared

REPORT: dict[str, Any] = {
    "method": "finetune",
    "metrics": [],
    "gate": {"verdict": "pass", "sentence": "-"},
    "seconds": {"unlearning": 1.0, "evaluation": 1.0},
}
SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    """A dataset of the test's own; whatever earlier tests left queued is out of the way."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    return found


def _model(bench: Bench, name: str, *, of: str, **fields: Any) -> None:
    factories.model(bench, name, of=of, **fields)
    factories.version(bench, name)


def _order(name: str, *named: str, **changes: Any) -> Order:
    return factories.order(name, *named, **changes)


def _ask(bench: Bench, name: str, *named: str, **changes: Any) -> tuple[str, list[str]]:
    with bench.database.writing() as session:
        accepted = intake.accept(session, _order(name, *named, **changes), SECRETS)
        return accepted.request.id, [job.id for job, _ in accepted.jobs]


def _claim(bench: Bench) -> Claim:
    found = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert found is not None
    return found


def _claim_job(bench: Bench, job_id: str) -> Claim:
    """Claim this job, by making it the most urgent one."""
    with bench.database.writing() as session:
        session.get_one(Job, job_id).due_at = datetime(2000, 1, 1, tzinfo=UTC)
    claim = _claim(bench)
    assert claim.job_id == job_id
    return claim


def _erase(bench: Bench, claim: Claim) -> None:
    """Publish what a worker would have for the claim: a successor of the newest version."""
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys(session, [request.id for request in requests.of_job(session, job.id)])
        keys = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=keys, excluded_keys=keys)
    digest = hashlib.sha256(claim.job_id.encode()).hexdigest()
    with bench.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        publish.erased(session, claim, prepared, {"report": REPORT}, (digest, 4096), [], SECRETS.suppression)


def _fail(bench: Bench, claim: Claim, status: JobStatus = JobStatus.FAILED) -> None:
    error = {"code": "broken", "detail": "It broke."}
    with bench.database.writing() as session:
        attempt_end.failed(session, claim, error, SECRETS.suppression, status=status)


def _retry(bench: Bench, job_id: str) -> None:
    with bench.database.writing() as session:
        jobs.retry(session, jobs.get(session, job_id))


def _appear(bench: Bench, name: str, state: VersionState = VersionState.ACTIVE) -> None:
    """Have a version of the model come into being, as training or an upload does."""
    factories.version(bench, name, state=state)
    with bench.database.writing() as session:
        attaching.attach_open_requests(session, models.by_name(session, name))


def _request(bench: Bench, request_id: str) -> DeletionRequest:
    with bench.database.reading() as session:
        return session.get_one(DeletionRequest, request_id)


def _outcomes(bench: Bench, request_id: str) -> dict[str, int]:
    with bench.database.reading() as session:
        return request_outcomes.of_request(session, session.get_one(DeletionRequest, request_id))


def _states(bench: Bench, name: str) -> list[str]:
    with bench.database.reading() as session:
        model = models.by_name(session, name)
        return list(session.scalars(select(Version.state).where(Version.model_id == model.id).order_by(Version.number)))


def _actions(session: Session, **link: str) -> list[str]:
    return [entry.action for entry in audit.find(session, links=link, limit=1000)]


@pytest.mark.parametrize("started", [False, True])
def test_a_version_that_appears_while_its_erasure_is_open_is_withheld_too(
    bench: Bench, name: str, started: bool
) -> None:
    _model(bench, name, of=name, policy={"stop_serving": "immediately"})
    request_id, (job_id,) = _ask(bench, name, "train-0")
    if started:
        _claim(bench)
    _appear(bench, name)
    assert _states(bench, name) == ["quarantined", "quarantined"]
    with bench.database.reading() as session:
        found = requests.jobs(session, [request_id])[request_id]
    assert [job.id for job, _ in found] == [job_id], "no second job beside the open one"


def test_the_successor_is_withheld_for_the_next_request_that_waits(bench: Bench, name: str) -> None:
    _model(bench, name, of=name, policy={"stop_serving": "immediately"})
    first, _ = _ask(bench, name, "train-0")
    claim = _claim(bench)
    second, _ = _ask(bench, name, "train-1")
    _erase(bench, claim)
    assert _request(bench, first).status == RequestStatus.COMPLETED
    assert _request(bench, second).status == RequestStatus.ACCEPTED
    assert _states(bench, name) == ["retired", "quarantined"]


def test_a_version_not_judged_yet_is_not_withheld(bench: Bench, name: str) -> None:
    _model(bench, name, of=name, policy={"stop_serving": "immediately"})
    _ask(bench, name, "train-0")
    _appear(bench, name, VersionState.VALIDATING)
    assert _states(bench, name) == ["quarantined", "validating"]


def test_the_log_names_the_policy_of_a_job_attached_later_before_its_work(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    request_id, (early,) = _ask(bench, name, "train-0")
    factories.model(bench, name + "late", of=name, policy={"max_accuracy_drop": 1.0})
    _appear(bench, name + "late")
    with bench.database.reading() as session:
        digests = {}
        for job, _ in requests.jobs(session, [request_id])[request_id]:
            (entry,) = audit.find(session, links={"job": job.id}, actions=["job.queued"], limit=10)
            digests[job.id] = (json.loads(entry.payload)["policy_digest"], job.policy_digest)
    assert len(digests) == 2
    assert all(logged == held_to is not None for logged, held_to in digests.values())
    assert digests[early] != digests[max(digests)]


def test_a_request_ends_by_the_newest_job_of_each_model(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    request_id, (old,) = _ask(bench, name, "train-0")
    _fail(bench, _claim(bench), JobStatus.HELD)
    assert _request(bench, request_id).status == RequestStatus.ON_HOLD
    with bench.database.writing() as session:
        request = session.get_one(DeletionRequest, request_id)
        model = models.by_name(session, name)
        newer = jobs.create(
            session, JobKind.ERASE, dataset_id=model.dataset_id, model_id=model.id, method="finetune", request=request
        )
    assert newer.id > old
    _erase(bench, _claim_job(bench, newer.id))
    assert _request(bench, request_id).status == RequestStatus.COMPLETED
    assert _outcomes(bench, request_id)["erased"] == 1


def test_a_request_to_some_models_claims_nothing_of_the_others(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    _model(bench, name + "other", of=name)
    request_id, _ = _ask(bench, name, "train-0", "train-1", "audit-0", models=[name])
    start = _outcomes(bench, request_id)
    assert start["pending"] == 3
    _erase(bench, _claim(bench))
    assert _request(bench, request_id).status == RequestStatus.COMPLETED
    assert _outcomes(bench, request_id) == {
        **dict.fromkeys(start, 0),
        "erased_from_named_models": 2,
        "not_trained_on_by_named_models": 1,
    }
    assert _states(bench, name + "other") == ["active"]


def test_a_request_to_every_model_has_no_outcome_of_named_ones(bench: Bench, name: str) -> None:
    request_id, _ = _ask(bench, name, "audit-0")
    assert set(_outcomes(bench, request_id)) == {
        "pending", "erased", "erased_not_trained_on", "already_erased", "not_found",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stuck", "status"), [(JobStatus.FAILED, RequestStatus.FAILED), (JobStatus.HELD, RequestStatus.ON_HOLD)]
)
def test_only_trying_its_stuck_job_again_moves_a_request_on(
    bench: Bench, name: str, stuck: JobStatus, status: RequestStatus
) -> None:
    _model(bench, name, of=name)
    _model(bench, name + "b", of=name)
    request_id, (one, two) = _ask(bench, name, "train-0")
    _fail(bench, _claim_job(bench, one), stuck)
    assert _request(bench, request_id).status == status
    other = _claim_job(bench, two)
    assert _request(bench, request_id).status == status, "another model's job says nothing of the stuck one"
    _erase(bench, other)
    assert _request(bench, request_id).status == status
    _retry(bench, one)
    assert _request(bench, request_id).status == RequestStatus.IN_PROGRESS
    _erase(bench, _claim_job(bench, one))
    assert _request(bench, request_id).status == RequestStatus.COMPLETED


def test_an_upload_the_method_cannot_be_used_on_puts_the_request_on_hold(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    factories.model(bench, name + "bare", of=name, recipe=None)
    request_id, (job_id,) = _ask(bench, name, "train-0", method="retrain")
    _appear(bench, name + "bare")
    held = _request(bench, request_id)
    assert held.status == RequestStatus.ON_HOLD
    assert held.error is not None
    assert held.error["code"] == "cannot_be_worked_on"
    assert "Send a new request" in held.error["detail"]
    assert "recipe" in held.error["models"][name + "bare"][0]
    _erase(bench, _claim_job(bench, job_id))
    assert _request(bench, request_id).status == RequestStatus.ON_HOLD, "one of the models still knows the sample"
    other, (capable,) = _ask(bench, name, "train-0", method="finetune")
    _erase(bench, _claim_job(bench, capable))
    assert _request(bench, other).status == RequestStatus.COMPLETED
    done = _request(bench, request_id)
    assert (done.status, done.error) == (RequestStatus.COMPLETED, None)
    assert _outcomes(bench, request_id)["erased"] == 1


def test_a_request_on_hold_before_any_work_can_be_cancelled_and_a_started_one_cannot(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    factories.model(bench, name + "bare", of=name, recipe=None)
    idle, _ = _ask(bench, name, "train-0", method="retrain")
    started, (job_id,) = _ask(bench, name, "train-1", method="retrain", purpose="bias")
    _claim_job(bench, job_id)
    _appear(bench, name + "bare")
    assert {_request(bench, each).status for each in (idle, started)} == {RequestStatus.ON_HOLD}
    with bench.database.writing() as session:
        cancel.cancel(session, idle)
    assert _request(bench, idle).status == RequestStatus.CANCELLED
    with pytest.raises(Conflict), bench.database.writing() as session:
        cancel.cancel(session, started)


def test_a_cancelled_requests_due_date_leaves_its_gathered_job(bench: Bench, name: str) -> None:
    _model(bench, name, of=name)
    early, (job_id,) = _ask(bench, name, "train-0", received_at=datetime(2024, 1, 31, 12, tzinfo=UTC))
    late, _ = _ask(bench, name, "train-1")
    with bench.database.writing() as session:
        cancel.cancel(session, early)
    with bench.database.reading() as session:
        job = session.get_one(Job, job_id)
        assert job.due_at == session.get_one(DeletionRequest, late).due_at
        assert session.scalars(select(JobRequest.request_id).where(JobRequest.job_id == job_id)).all() == [late]


@pytest.mark.parametrize("turn", range(4))
def test_two_jobs_claimed_at_once_start_their_request_once(bench: Bench, name: str, turn: int) -> None:
    _model(bench, name, of=name)
    _model(bench, name + "b", of=name)
    request_id, queued = _ask(bench, name, f"train-{turn}")
    with ThreadPoolExecutor(2) as pool:
        claims = list(pool.map(lambda _: _claim(bench), range(2)))
    assert sorted(claim.job_id for claim in claims) == sorted(queued)
    with bench.database.reading() as session:
        assert _actions(session, request=request_id).count("request.in_progress") == 1


@pytest.mark.parametrize("may_read_datasets", [False, True])
def test_a_repeated_call_lists_the_unresolved_ids_of_the_first(
    bench: Bench, name: str, may_read_datasets: bool
) -> None:
    _model(bench, name, of=name)
    _ask(bench, name, "audit-1")
    order = _order(
        name,
        "train-0", "audit-0", "audit-1", "nobody",
        report_unresolved=True,
        may_read_datasets=may_read_datasets,
    )  # fmt: skip
    with bench.database.writing() as session:
        first = intake.accept(session, order, SECRETS)
    expected = [f"{name}-nobody"] if may_read_datasets else [f"{name}-audit-1", f"{name}-nobody"]
    assert first.unresolved == expected
    _erase(bench, _claim(bench))
    assert _request(bench, first.request.id).status == RequestStatus.COMPLETED
    with bench.database.reading() as session:
        again = intake.unresolved_again(session, order, SECRETS, first_at=first.request.created_at)
    assert again == expected


def test_the_log_of_a_request_tells_what_became_of_the_versions(bench: Bench, name: str) -> None:
    _model(bench, name, of=name, policy={"stop_serving": "immediately"})
    request_id, (job_id,) = _ask(bench, name, "train-0")
    _erase(bench, _claim(bench))
    with bench.database.reading() as session:
        of_request, of_job = _actions(session, request=request_id), _actions(session, job=job_id)
    made = ["version.created", "version.activated", "version.retired"]
    assert [action for action in of_request if action in made] == made
    assert [action for action in of_job if action in made] == made
    assert "version.quarantined" in of_request
    assert "job.queued" in of_request
