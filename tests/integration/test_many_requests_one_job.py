"""Many requests share a job: each gets its own outcome, and none makes the others' end more costly."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest
from sqlalchemy import event, select, update

from service import migrate
from service.lifecycle import JobStatus, SampleState
from service.settings import Settings
from service.store import attaching, intake, jobs, models, request_outcomes, requests, versions
from service.store.intake import Secrets
from service.store.tables import DeletionRequest, Job, Model, Residual, Sample, Version
from tests import certificate_cases, factories
from workers import attempt_end, publish
from workers.bench import Bench
from workers.order_parts import Prepared

REPORT = {**certificate_cases.report(method="finetune"), "seconds": {"unlearning": 1.0, "evaluation": 1.0}}
SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC", approval_above_share=1.0)
FEW, MANY = 5, 60
_NO_POLICY: Mapping[str, float] = MappingProxyType({})


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("many"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    yield found
    found.database.dispose()


def _ask(bench: Bench, name: str, *named: str, **changes: Any) -> str:
    with bench.database.writing() as session:
        return intake.accept(session, factories.order(name, *named, **changes), SECRETS).request.id


def _model(bench: Bench, name: str, *, train: int = 400) -> None:
    factories.dataset(bench, name, train=train, held_out=5)
    factories.model(bench, name, of=name)
    factories.version(bench, name)


@contextmanager
def _counted(bench: Bench) -> Iterator[list[int]]:
    counted = [0]

    def count(*_: Any) -> None:
        counted[0] += 1

    event.listen(bench.database.engine, "before_cursor_execute", count)
    yield counted
    event.remove(bench.database.engine, "before_cursor_execute", count)


def _claim(bench: Bench) -> jobs.Claim:
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    return claim


def _publish(bench: Bench, claim: jobs.Claim) -> None:
    with bench.database.reading() as session:
        job = session.get_one(Job, claim.job_id)
        parent = versions.live(session, str(job.model_id))[-1]
        named = requests.sample_keys_of_job(session, job.id)
        keys = [key for key, _ in versions.trained_on(session, parent, sorted(set().union(*named.values())))]
    prepared = Prepared(order={}, parent_id=parent.id, forget_keys=keys, excluded_keys=keys)
    digest = hashlib.sha256(claim.job_id.encode()).hexdigest()
    with bench.database.writing() as session:
        jobs.hold_lease(session, claim).rung = "finetune"
        publish.erased(session, claim, prepared, {"report": REPORT}, (digest, 4096), [], SECRETS.suppression)


def _statements(bench: Bench, name: str, count: int) -> tuple[int, int]:
    """Return how many statements it took to claim, and to publish, a job that works for so many requests."""
    _model(bench, name)
    asked = [_ask(bench, name, f"train-{3 * i}", f"train-{3 * i + 1}", f"train-{3 * i + 2}") for i in range(count)]
    with _counted(bench) as claiming:
        claim = _claim(bench)
    with _counted(bench) as publishing:
        _publish(bench, claim)
    with bench.database.reading() as session:
        assert session.scalars(select(Job.id).where(Job.id == claim.job_id)).one()
        for request_id in asked:
            request = session.get_one(DeletionRequest, request_id)
            assert request.status == "completed"
            assert request_outcomes.of_request(session, request)["erased"] == 3
            ledger = session.scalars(select(Residual.artifact).where(Residual.request_id == request_id)).all()
            assert sorted(ledger) == [f"dataset/{name}/source", f"model/{name}/version/1"]
    return claiming[0], publishing[0]


def test_claiming_and_publishing_take_as_many_statements_for_sixty_requests_as_for_five(bench: Bench) -> None:
    few, many = _statements(bench, "few", FEW), _statements(bench, "many", MANY)
    # Drivers may send long lists in several parts.
    assert many[0] <= few[0] + 10
    assert many[1] <= few[1] + 20


def _statements_for_late(bench: Bench, name: str, count: int) -> int:
    """Return how many statements publishing takes when so many requests came in while the work was under way.

    The model has a twin of equal weights, as two that were trained by the same recipe have.
    """
    _model(bench, name)
    factories.model(bench, f"{name}-twin", of=name)
    factories.version(bench, f"{name}-twin")
    with bench.database.writing() as session:
        of_both = Version.model_id.in_(select(Model.id).where(Model.name.in_([name, f"{name}-twin"])))
        session.execute(update(Version).where(of_both).values(content_sha256=hashlib.sha256(name.encode()).hexdigest()))
    _ask(bench, name, "train-0")
    claim = _claim(bench)
    late = [_ask(bench, name, f"train-{2 * i + 1}", f"train-{2 * i + 2}") for i in range(count)]
    with _counted(bench) as publishing:
        _publish(bench, claim)
    with bench.database.reading() as session:
        model_id = session.get_one(Job, claim.job_id).model_id
        of_model = select(Job).where(Job.model_id == model_id, Job.status == JobStatus.QUEUED)
        assert sorted(request.id for request in requests.of_job(session, session.scalars(of_model).one().id)) == late
    with bench.database.writing() as session:  # the other tests claim what is theirs
        session.execute(update(Job).where(Job.status == JobStatus.QUEUED).values(status=JobStatus.CANCELLED))
    return publishing[0]


def test_requests_that_come_while_a_job_is_at_work_make_the_end_of_the_work_no_more_costly(bench: Bench) -> None:
    few, many = _statements_for_late(bench, "few-late", FEW), _statements_for_late(bench, "many-late", MANY)
    assert many <= few + 20


def _statements_for_a_new_version(bench: Bench, name: str, count: int, *, policy: Mapping[str, float]) -> int:
    """Return how many statements it takes to have so many requests wait for another model's first version too."""
    _model(bench, name)
    factories.model(bench, f"{name}-new", of=name, policy=policy)
    for i in range(count):
        _ask(bench, name, f"train-{2 * i}", f"train-{2 * i + 1}")
    factories.version(bench, f"{name}-new")
    with bench.database.writing() as session, _counted(bench) as attaching_them:
        attaching.attach_open_requests(session, models.by_name(session, f"{name}-new"))
    with bench.database.writing() as session:  # the other tests claim what is theirs
        session.execute(update(Job).where(Job.status == JobStatus.QUEUED).values(status=JobStatus.CANCELLED))
    return attaching_them[0]


def _statements_to_judge_classes(bench: Bench, name: str, count: int) -> int:
    bounded = {"approval_above_class_share": 0.9}
    judged = _statements_for_a_new_version(bench, f"{name}-judged", count, policy=bounded)
    return judged - _statements_for_a_new_version(bench, f"{name}-plain", count, policy=_NO_POLICY)


def test_the_classes_of_waiting_requests_are_judged_by_as_many_statements_for_fifty_as_for_five(bench: Bench) -> None:
    few = _statements_to_judge_classes(bench, "few", FEW)
    assert 0 < _statements_to_judge_classes(bench, "many", 50) <= few + 5


def test_requests_of_one_job_have_outcomes_of_their_own(bench: Bench) -> None:
    _model(bench, "own", train=40)
    first = _ask(bench, "own", "train-0", "train-1")
    second = _ask(bench, "own", "train-1", "audit-0", "train-2")
    _publish(bench, _claim(bench))
    with bench.database.reading() as session:
        found = [
            request_outcomes.of_request(session, session.get_one(DeletionRequest, each)) for each in (first, second)
        ]
    assert [(each["erased"], each["erased_not_trained_on"], each["pending"]) for each in found] == [
        (2, 0, 0),
        (2, 1, 0),
    ]


def test_a_sample_that_two_requests_of_one_job_name_is_free_once_both_are_completed(bench: Bench) -> None:
    _model(bench, "shared", train=40)
    for named in (("train-0", "train-1"), ("train-1", "train-2")):
        _ask(bench, "shared", *named, purpose="confusion")
    with bench.database.reading() as session:
        pending = select(Sample.sample_id).where(Sample.state == SampleState.PENDING, Sample.sample_id.like("shared-%"))
        assert len(session.scalars(pending).all()) == 3
    _publish(bench, _claim(bench))
    with bench.database.reading() as session:
        assert session.scalars(pending).all() == []


def test_of_a_job_that_fails_every_request_waits_for_a_person(bench: Bench) -> None:
    _model(bench, "broken", train=40)
    asked = [_ask(bench, "broken", f"train-{i}") for i in range(4)]
    claim = _claim(bench)
    with bench.database.writing() as session:
        error = {"code": "broken", "detail": "It broke."}
        attempt_end.failed(session, claim, error, SECRETS.suppression, status=JobStatus.FAILED)
    with bench.database.reading() as session:
        assert {session.get_one(DeletionRequest, each).status for each in asked} == {"failed"}
