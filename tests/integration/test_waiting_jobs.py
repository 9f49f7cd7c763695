"""Which stuck jobs wait for a person: those that hold somebody up, not those whose caller was told and may ask anew."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service import doctor, migrate
from service.lifecycle import JobKind, JobStatus, RequestStatus, VersionState
from service.settings import Settings
from service.store import gauges, jobs, models, preparations
from service.store.session import Database
from service.store.tables import DeletionRequest, Job, Model, PreparedFile, Version
from tests import factories
from tests.integration.restore.services import Service


@dataclass(frozen=True, kw_only=True)
class World:
    service: Service
    model: Model
    version: Version

    def stuck(self, kind: JobKind, *names: str, status: JobStatus = JobStatus.FAILED) -> str:
        """Add a job that is stuck, of the version where its kind is of one; ``names``: what it is to prepare of it."""
        of_version = kind in (JobKind.PREPARE_VERSION, JobKind.VALIDATE)
        with self.service.database.writing() as session:
            job = jobs.create(
                session,
                kind,
                dataset_id=self.model.dataset_id,
                model_id=None if kind in (JobKind.INDEX, JobKind.REINDEX) else self.model.id,
                version_id=self.version.id if of_version else None,
                method_options={"prepare": sorted(names)} if names else None,
            )
            job.status = status
            return job.id

    def waiting(self) -> dict[str, int]:
        with self.service.database.reading() as session:
            return {k: n for k, n in gauges.read(session, sweep_seconds=5.0).stuck_by_status.items() if n}

    def asked_for_by_policy(self) -> set[str]:
        """Have the sweeper ask for three preparations; return the names that jobs wait to make then."""
        wanted = ["importance_loss", "importance_output", "teacher_logits"]
        with self.service.database.writing() as session:
            model = session.get_one(Model, self.model.id)
            models.replace_policy(session, model, {**model.policy, "prepare": wanted})
            preparations.ask_where_missing(session)
            session.flush()
            queued = session.query(Job).where(Job.status == JobStatus.QUEUED, Job.kind == JobKind.PREPARE_VERSION)
            return {name for job in queued for name in (job.method_options or {})["prepare"]}


@pytest.fixture
def world(own_settings: Settings) -> Iterator[World]:
    migrate.upgrade(own_settings.resolved_database_url)
    service = Service(own_settings, Database.open(own_settings))
    factories.dataset(service)
    model = factories.model(service)
    yield World(service=service, model=model, version=factories.version(service))
    service.database.dispose()


@pytest.mark.parametrize("kind", [JobKind.INDEX, JobKind.REINDEX, JobKind.TRAIN, JobKind.VALIDATE])
def test_what_its_caller_was_told_and_holds_up_nobody_does_not_wait(world: World, kind: JobKind) -> None:
    world.stuck(kind)
    world.stuck(kind, status=JobStatus.POISONED)
    assert world.waiting() == {}


def test_an_erasure_waits_as_long_as_a_request_of_it_is_open(world: World) -> None:
    request_id = world.service.erase("train-1")
    with world.service.database.writing() as session:
        session.query(Job).filter(Job.kind == JobKind.ERASE).one().status = JobStatus.HELD
    assert world.waiting() == {"held": 1}
    with world.service.database.writing() as session:
        session.get_one(DeletionRequest, request_id).status = RequestStatus.DENIED
    assert world.waiting() == {}


def test_a_preparation_waits_until_it_is_asked_for_anew(world: World) -> None:
    world.stuck(JobKind.PREPARE)
    world.stuck(JobKind.PREPARE_VERSION, "teacher_logits")
    assert world.waiting() == {"failed": 2}
    world.stuck(JobKind.PREPARE, status=JobStatus.CANCELLED)
    assert world.waiting() == {"failed": 2}
    world.stuck(JobKind.PREPARE, status=JobStatus.QUEUED)
    assert world.waiting() == {"failed": 1}
    with world.service.database.writing() as session:
        session.get_one(Version, world.version.id).state = VersionState.RETIRED
    assert world.waiting() == {}


@pytest.mark.parametrize(
    ("names", "status", "still"),
    [
        (["importance_loss"], JobStatus.QUEUED, {"importance_output", "teacher_logits"}),
        (["importance_output"], JobStatus.QUEUED, {"teacher_logits"}),
        (["importance_output", "teacher_logits"], JobStatus.CANCELLED, {"importance_output", "teacher_logits"}),
        (["importance_output", "teacher_logits"], JobStatus.QUEUED, set()),
    ],
)
def test_a_stuck_preparation_waits_for_what_nobody_asked_anew_and_that_alone_is_not_asked_for_by_a_policy(
    world: World, names: list[str], status: JobStatus, still: set[str]
) -> None:
    world.stuck(JobKind.PREPARE_VERSION, "importance_output", "teacher_logits")
    world.stuck(JobKind.PREPARE_VERSION, *names, status=status)
    assert world.waiting() == ({"failed": 1} if still else {})
    assert world.asked_for_by_policy() == {"importance_loss", "importance_output", "teacher_logits"} - still


def test_a_stuck_preparation_waits_until_what_it_was_to_make_is_there(world: World) -> None:
    stuck = world.stuck(JobKind.PREPARE_VERSION, "importance_output", "teacher_logits")
    for name, waiting in (("importance_output", {"failed": 1}), ("teacher_logits", {})):
        with world.service.database.writing() as session:
            made = PreparedFile(version_id=world.version.id, name=name, sha256="0" * 64, size_bytes=1, samples=1)
            made.seconds, made.job_id = 1.0, stuck
            session.add(made)
        assert world.waiting() == waiting


def test_doctor_names_the_jobs_that_wait_and_where_to_look(world: World) -> None:
    trim, index = world.stuck(JobKind.TRIM, status=JobStatus.POISONED), world.stuck(JobKind.INDEX)
    assert world.waiting() == {"poisoned": 1}
    (told,) = [each for each in doctor.examine(lambda: world.service.settings) if each.part == "jobs"]
    assert f"{trim} (trim, poisoned)" in told.found
    assert index not in told.found
    assert "GET /v1/jobs/{id}" in told.todo
