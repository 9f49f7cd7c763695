"""A disk that is full or refuses leaves nothing half done, and no work is lost."""

import errno
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from service import faults
from service.artifacts import ArtifactStore
from service.lifecycle import JobStatus, RequestStatus, VersionState
from service.store import jobs
from service.store.jobs import Claim
from service.store.tables import DeletionRequest, Job, Version, WebhookEvent
from service.store.types import now
from tests import factories
from tests.integration.lacks.stand_ins import (
    actions_of,
    answering,
    count_versions,
    failing,
    queue_erasure,
    queue_training,
    read_job,
    trained,
)
from workers import retirement, tasks
from workers.bench import Bench


@pytest.fixture
def fault_points(tmp_path: Path) -> Iterator[Path]:
    faults.arm(tmp_path)
    yield tmp_path
    faults.arm(None)


def _due_now(bench: Bench, job_id: str) -> None:
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(not_before=now()))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_a_result_leaves_nothing_and_the_job_waits_with_the_reason(
    bench: Bench, name: str, fault_points: Path, number: int
) -> None:
    job_id = queue_training(bench, name)
    before = set(ArtifactStore(bench.settings.resolved_artifacts_url).older_than(-1000))
    (fault_points / "artifact.writing").write_text(json.dumps({"do": "fail", "errno": number}))
    busy = answering(bench, trained)
    assert tasks.run_all(busy) == 1, "it is not claimed again at once"
    job = read_job(bench, job_id)
    code = "storage_full" if number == errno.ENOSPC else "storage_unavailable"
    assert (job.status, job.attempts) == (JobStatus.QUEUED, 1)
    assert job.error is not None
    assert job.error["code"] == code
    assert "came to no result" in job.error["detail"]
    assert "tried again at" in job.error["detail"]
    assert job.not_before is not None
    assert timedelta(seconds=30) < job.not_before - now() <= timedelta(seconds=60)
    with bench.database.writing() as session:
        assert jobs.to_ring(session, older_than_seconds=0) == [], "no bell before its time"
    assert set(bench.artifacts.older_than(-1000)) == before
    assert count_versions(bench, name) == 1

    _due_now(bench, job_id)
    assert tasks.run_all(busy) == 1
    assert read_job(bench, job_id).status == JobStatus.PUBLISHED
    assert count_versions(bench, name) == 2
    assert actions_of(bench, job_id).count("job.postponed") == 1


def test_storage_that_stays_full_poisons_the_job_after_growing_waits_and_a_retry_completes(
    bench: Bench, name: str
) -> None:
    factories.webhook(bench)
    request_id, job_id = queue_erasure(bench, name, "finetune")
    full, waits = answering(bench, failing("storage_full")), []
    for _ in range(bench.settings.max_attempts - 1):
        assert tasks.run_all(full) == 1
        until = read_job(bench, job_id).not_before
        assert until is not None
        waits.append((until - now()).total_seconds())
        _due_now(bench, job_id)
    assert waits[1] > 3 * waits[0] > 90
    assert tasks.run_all(full) == 1
    job = read_job(bench, job_id)
    assert (job.status, job.attempts) == (JobStatus.POISONED, bench.settings.max_attempts)
    assert job.error is not None
    assert job.error["code"] == "poisoned"
    assert "storage_full" in job.error["detail"]
    assert f"POST /v1/jobs/{job_id}/retry" in job.error["detail"]
    assert "job.poisoned" in actions_of(bench, job_id)
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.FAILED
        told = [row.type for row in session.scalars(select(WebhookEvent)) if job_id in json.dumps(row.data)]
    assert "job.poisoned" in told

    with bench.database.writing() as session:
        jobs.retry(session, jobs.get(session, job_id))
    job = read_job(bench, job_id)
    assert (job.status, job.attempts, job.error) == (JobStatus.QUEUED, 0, None)
    with bench.database.reading() as session:
        assert session.get_one(DeletionRequest, request_id).status == RequestStatus.IN_PROGRESS
    assert isinstance(jobs.claim_next(bench.database, owner="test", lease_seconds=30), Claim), "it can be claimed now"


def test_versions_that_cannot_be_deleted_keep_no_later_one_waiting(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(25):
        factories.version(bench, name, state=VersionState.RETIRED)
    with bench.database.reading() as session:
        retired = session.scalars(select(Version).where(Version.state == VersionState.RETIRED).order_by(Version.id))
        found = list(retired)
    stuck, last = {version.sha256 for version in found[:-1]}, found[-1].id
    purge = ArtifactStore.purge

    def refusing(self: ArtifactStore, digest: str) -> bool:
        if digest in stuck:
            raise PermissionError(errno.EACCES, "refused")
        return purge(self, digest)

    monkeypatch.setattr(ArtifactStore, "purge", refusing)
    for _ in range(2 * (1 + len(found) // 20)):
        retirement.purge(bench)
    with bench.database.reading() as session:
        states = {v.id: v.state for v in session.scalars(select(Version).where(Version.id.in_([v.id for v in found])))}
    assert states.pop(last) == VersionState.PURGED
    assert set(states.values()) == {VersionState.RETIRED}
    stuck.clear()
    for _ in range(2 * (1 + len(found) // 20)):
        retirement.purge(bench)
    with bench.database.reading() as session:
        left = session.scalars(select(Version.id).where(Version.state == VersionState.RETIRED)).all()
    assert left == []
