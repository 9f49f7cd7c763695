"""Reference models: their jobs one at a time, and no row of an erased sample that stays in their file."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service.lifecycle import JobKind, JobStatus, RequestStatus, SampleState, VersionState
from service.store import audit, jobs, models, references, retention, samples, versions
from service.store.jobs import Claim
from service.store.tables import DeletionRequest, Job, ReferenceFile, RequestSample, Sample
from service.store.types import new_id, now
from tests import factories
from tests.clock import Clock
from workers import publish, publish_prepared
from workers.bench import Bench
from workers.order_parts import Place, Prepared
from workers.orders import prepare

DAYS = 30


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset of the test's own; whatever earlier tests left queued is out of the way."""
    found = f"r{secrets.token_hex(4)}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    return found


def _model(bench: Bench, name: str, *, days: int = 0) -> None:
    """Add a model whose reference logits were prepared long ago, with rows of all samples."""
    factories.model(bench, name, of=name, policy={"audit_retention_days": days})
    digest = _file(bench)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        long_ago = now() - timedelta(days=365)
        row = ReferenceFile(model_id=model.id, sha256=digest, models=2, rows=45, job_id="job_0", made_at=long_ago)
        session.add(row)


def _file(bench: Bench) -> str:
    path = bench.settings.data_dir / "references"
    path.write_bytes(secrets.token_bytes(64))
    return factories.stack_artifacts(bench, path)


def _complete(
    bench: Bench, name: str, place: int, *, at: datetime, purpose: str = "privacy", scope: str = "full"
) -> int:
    """Add a request for one train sample that was completed at that time; return the sample's position."""
    with bench.database.writing() as session:
        sample = session.scalars(
            select(Sample).where(Sample.dataset_id == models.by_name(session, name).dataset_id, Sample.pool == "train")
            .order_by(Sample.position).offset(place).limit(1)
        ).one()  # fmt: skip
        request = DeletionRequest(
            id=new_id("req"),
            dataset_id=sample.dataset_id,
            principal_id="key_test",
            purpose=purpose,
            method="finetune",
            method_options={},
            scope=scope,
            status=RequestStatus.COMPLETED,
            num_samples=1,
            commitment_root="0" * 64,
            received_at=at,
            completed_at=at,
        )
        session.add(request)
        session.flush()
        session.add(RequestSample(request_id=request.id, sample_id=sample.id, outcome="erased"))
        if (purpose, scope) == ("privacy", "full"):
            samples.set_state(session, [sample.id], SampleState.ERASED)
        return sample.position


def _to_trim(bench: Bench, name: str) -> bool:
    with bench.database.reading() as session:
        return name in [model.name for model in references.to_trim(session)]


def _start_trim(bench: Bench, name: str) -> tuple[Claim, Prepared]:
    """Ask for a trim as a sweep does, claim it and read what it has to remove."""
    with bench.database.writing() as session:
        job_id = references.ask_for(session, models.by_name(session, name), JobKind.TRIM).id
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == job_id
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.reading() as session:
        return claim, prepare(session, session.get_one(Job, job_id), place)


def _end_trim(bench: Bench, claim: Claim, prepared: Prepared) -> None:
    digest = _file(bench)
    with bench.database.writing() as session:
        publish_prepared.references_made(session, claim, prepared, {"models": 2, "rows": 44}, digest)


def _removed(prepared: Prepared) -> list[int]:
    assert prepared.order is not None
    found: list[int] = prepared.order["positions"]
    return found


def test_a_file_is_trimmed_once_for_what_was_erased(bench: Bench, name: str) -> None:
    _model(bench, name)
    assert not _to_trim(bench, name)
    position = _complete(bench, name, 0, at=now())
    assert _to_trim(bench, name)
    claim, prepared = _start_trim(bench, name)
    assert _removed(prepared) == [position]
    _end_trim(bench, claim, prepared)
    assert not _to_trim(bench, name)


@pytest.mark.parametrize("seconds_ago", [0, 60])
def test_what_is_erased_while_a_trim_runs_is_trimmed_next(bench: Bench, name: str, seconds_ago: float) -> None:
    # A completion may carry a time before the trim began and be committed after.
    _model(bench, name)
    first = _complete(bench, name, 0, at=now() - timedelta(hours=1))
    claim, prepared = _start_trim(bench, name)
    second = _complete(bench, name, 1, at=now() - timedelta(seconds=seconds_ago))
    _end_trim(bench, claim, prepared)
    assert _removed(prepared) == [first]
    assert _to_trim(bench, name)
    claim, prepared = _start_trim(bench, name)
    assert _removed(prepared) == [first, second]
    _end_trim(bench, claim, prepared)
    assert not _to_trim(bench, name)


def test_what_may_no_longer_be_read_by_the_end_of_a_trim_is_trimmed_next(bench: Bench, name: str) -> None:
    clock = Clock()
    with clock.installed():
        _model(bench, name, days=DAYS)
        first = _complete(bench, name, 0, at=now() - timedelta(days=DAYS, hours=1))
        lapse = now() + timedelta(seconds=2)
        second = _complete(bench, name, 1, at=lapse - timedelta(days=DAYS))
        claim, prepared = _start_trim(bench, name)
        assert _removed(prepared) == [first]
        clock.advance(3)
        _end_trim(bench, claim, prepared)
        assert _to_trim(bench, name)
        claim, prepared = _start_trim(bench, name)
        assert _removed(prepared) == [first, second]
        _end_trim(bench, claim, prepared)


@pytest.mark.parametrize(
    ("purpose", "scope", "gone"),
    [("bias", "full", True), ("privacy", "partial", True), ("privacy", "full", False)],
)
def test_only_a_request_that_erases_the_id_prolongs_its_retention(
    bench: Bench, name: str, purpose: str, scope: str, *, gone: bool
) -> None:
    _model(bench, name, days=DAYS)
    position = _complete(bench, name, 0, at=now() - timedelta(days=DAYS, hours=1))
    _complete(bench, name, 0, at=now(), purpose=purpose, scope=scope)
    with bench.database.reading() as session:
        dataset_id = models.by_name(session, name).dataset_id
        assert (retention.gone_positions(session, dataset_id, days=DAYS) == [position]) == gone


def test_a_trim_without_a_file_says_so(bench: Bench, name: str) -> None:
    factories.model(bench, name, of=name)
    claim, prepared = _start_trim(bench, name)
    assert prepared.order is None
    with bench.database.writing() as session:
        publish.nothing_left(session, claim, bench.suppression_key)
    with bench.database.reading() as session:
        (entry,) = audit.find(session, links={"job": claim.job_id}, actions=["job.completed"], limit=10)
    assert '"no_reference_logits"' in entry.payload


@pytest.mark.parametrize(
    ("fields", "faults", "prepares"),
    [
        ({"policy": {"prepare_audit": True}}, [], True),
        ({"policy": {"prepare_audit": False}}, [], False),
        ({"policy": {"prepare_audit": True}, "recipe": None}, [], False),
        ({"policy": {"prepare_audit": True}}, ["a tensor is missing"], False),
    ],
)
def test_a_version_that_was_uploaded_has_its_audit_prepared_where_the_policy_says_so(
    bench: Bench, name: str, fields: dict[str, Any], faults: Sequence[str], *, prepares: bool
) -> None:
    factories.model(bench, name, of=name, **fields)
    factories.version(bench, name, state=VersionState.VALIDATING)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        version = versions.get(session, model, 1)
        jobs.create(session, JobKind.VALIDATE, dataset_id=model.dataset_id, model_id=model.id, version_id=version.id)
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    with bench.database.writing() as session:
        publish.validated(session, claim, list(faults))
    with bench.database.reading() as session:
        waiting = session.scalars(select(Job.kind).where(Job.model_id == model.id, Job.status == JobStatus.QUEUED))
        assert list(waiting) == ([JobKind.PREPARE] if prepares else [])


@pytest.mark.parametrize(("kind", "again"), [(JobKind.TRIM, False), (JobKind.PREPARE, True)])
def test_a_stuck_trim_waits_for_a_person_and_a_failed_preparation_may_be_asked_for_anew(
    bench: Bench, name: str, kind: JobKind, *, again: bool
) -> None:
    factories.model(bench, name, of=name, recipe=None)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        first = references.ask_for(session, model, kind)
        session.flush()
        assert references.ask_for(session, model, kind) is first
        first.status = JobStatus.FAILED
        session.flush()
        assert (references.ask_for(session, model, kind) is not first) == again
