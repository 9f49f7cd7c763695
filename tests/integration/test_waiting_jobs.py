"""Which stuck jobs wait for a person: those that hold somebody up, not those whose caller was told and may ask anew."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from service import doctor, migrate
from service.lifecycle import JobKind, JobStatus, RequestStatus, VersionState
from service.settings import Settings
from service.store import gauges, jobs
from service.store.session import Database
from service.store.tables import DeletionRequest, Job, Model, Version
from tests import factories
from tests.integration.restore.services import Service


@dataclass(frozen=True, kw_only=True)
class World:
    service: Service
    model: Model
    version: Version

    def stuck(self, kind: JobKind, *, status: JobStatus = JobStatus.FAILED) -> str:
        """Add a job that is stuck, of the version where its kind is of one."""
        of_version = kind in (JobKind.PREPARE_VERSION, JobKind.VALIDATE)
        with self.service.database.writing() as session:
            job = jobs.create(
                session,
                kind,
                dataset_id=self.model.dataset_id,
                model_id=None if kind in (JobKind.INDEX, JobKind.REINDEX) else self.model.id,
                version_id=self.version.id if of_version else None,
            )
            job.status = status
            return job.id

    def waiting(self) -> dict[str, int]:
        with self.service.database.reading() as session:
            return {k: n for k, n in gauges.read(session, sweep_seconds=5.0).stuck_by_status.items() if n}


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
    for kind in (JobKind.PREPARE, JobKind.PREPARE_VERSION):
        world.stuck(kind)
    assert world.waiting() == {"failed": 2}
    world.stuck(JobKind.PREPARE, status=JobStatus.QUEUED)
    assert world.waiting() == {"failed": 1}
    with world.service.database.writing() as session:
        session.get_one(Version, world.version.id).state = VersionState.RETIRED
    assert world.waiting() == {}


def test_doctor_names_the_jobs_that_wait_and_where_to_look(world: World) -> None:
    trim, index = world.stuck(JobKind.TRIM, status=JobStatus.POISONED), world.stuck(JobKind.INDEX)
    assert world.waiting() == {"poisoned": 1}
    (told,) = [each for each in doctor.examine(lambda: world.service.settings) if each.part == "jobs"]
    assert f"{trim} (trim, poisoned)" in told.found
    assert index not in told.found
    assert "GET /v1/jobs/{id}" in told.todo
