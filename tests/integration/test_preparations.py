"""Preparations of a version: who may ask for which when, and what becomes of them with their version."""

import json
import secrets
from typing import Any

import pytest
from sqlalchemy import update

from service.errors import Conflict
from service.lifecycle import JobKind, JobStatus, SampleState, VersionState
from service.store import jobs, models, preparations, samples, versions
from service.store.jobs import Claim
from service.store.tables import AuditEntry, Job, PreparedFile, Sample, Version
from service.store.types import now
from tests import factories
from workers import publish_prepared, retirement
from workers.bench import Bench
from workers.order_parts import Place, Prepared
from workers.orders import prepare
from workers.publish_prepared import Kept


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset, a model and a version of the test's own; whatever was queued is out of the way."""
    found = f"p{secrets.token_hex(4)}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


def _ask(bench: Bench, name: str, *names: str) -> str:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        return preparations.ask_for(session, model, versions.get(session, model, 1), names).id


def _start(bench: Bench, job_id: str) -> tuple[Claim, Prepared]:
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == job_id
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.reading() as session:
        return claim, prepare(session, session.get_one(Job, job_id), place)


def _end(bench: Bench, claim: Claim, *names: str) -> list[str]:
    """Have the job keep files of these names; return their digests."""
    kept = []
    for each in names:
        path = bench.settings.data_dir / "made"
        path.write_bytes(secrets.token_bytes(64))
        stored = bench.artifacts.put(path), 64
        kept.append(Kept(name=each, stored=stored, samples=40, seconds=1.5))
    with bench.database.writing() as session:
        publish_prepared.version_prepared(session, claim, kept)
    return [file.stored[0] for file in kept]


def _name_sample(bench: Bench, name: str) -> None:
    """Have a request name one train sample, as an acceptance does."""
    with bench.database.writing() as session:
        dataset_id = models.by_name(session, name).dataset_id
        row = session.query(Sample).where(Sample.dataset_id == dataset_id, Sample.pool == "train").first()
        assert row is not None
        samples.set_state(session, [row.id], SampleState.PENDING)


def _set(bench: Bench, name: str, state: VersionState) -> None:
    with bench.database.writing() as session:
        versions.move(session, versions.get(session, models.by_name(session, name), 1), state)


def _names(bench: Bench, name: str) -> set[str]:
    with bench.database.reading() as session:
        version = versions.get(session, models.by_name(session, name), 1)
        return set(preparations.names_of(session, version.id))


def test_a_job_that_prepares_the_same_is_not_queued_twice(bench: Bench, name: str) -> None:
    first = _ask(bench, name, "importance_loss", "teacher_logits")
    assert _ask(bench, name, "teacher_logits") == first
    assert _ask(bench, name, "importance_output") != first


def test_the_order_reads_what_the_version_was_trained_on_and_the_files_are_named(bench: Bench, name: str) -> None:
    claim, prepared = _start(bench, _ask(bench, name, "importance_loss"))
    assert prepared.order is not None
    assert prepared.order["prepare"] == ["importance_loss"]
    assert len(prepared.order["train"]) == 40
    _end(bench, claim, "importance_loss")
    assert _names(bench, name) == {"importance_loss"}
    with bench.database.reading() as session:
        assert jobs.get(session, claim.job_id).status == JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("hinder", "code"),
    [
        (lambda bench, name: _set(bench, name, VersionState.RETIRED), "version_not_active"),
        (_name_sample, "requests_open"),
    ],
)
def test_a_version_that_may_not_be_read_is_not_prepared_at_any_stage(
    bench: Bench, name: str, hinder: Any, code: str
) -> None:
    before = _ask(bench, name, "importance_loss")
    claim, _ = _start(bench, before)
    hinder(bench, name)
    with pytest.raises(Conflict) as refusal:
        _ask(bench, name, "teacher_logits")
    assert refusal.value.code == code
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.reading() as session:
        assert prepare(session, session.get_one(Job, before), place).order is None
    _end(bench, claim, "importance_loss")
    assert _names(bench, name) == set()


def test_the_files_are_purged_with_their_version_and_no_sooner(bench: Bench, name: str) -> None:
    claim, _ = _start(bench, _ask(bench, name, "importance_loss", "teacher_logits"))
    digests = _end(bench, claim, "importance_loss", "teacher_logits")
    retirement.purge(bench)
    assert all(bench.artifacts.size(digest) is not None for digest in digests)
    _set(bench, name, VersionState.RETIRED)
    retirement.purge(bench)
    assert not any(bench.artifacts.size(digest) is not None for digest in digests)
    assert _names(bench, name) == set()
    with bench.database.reading() as session:
        assert session.query(Version).where(Version.state == VersionState.PURGED).count() >= 1


def test_what_a_policy_wants_and_could_not_be_prepared_is_asked_for_later_once(bench: Bench, name: str) -> None:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        models.replace_policy(session, model, {**model.policy, "prepare": ["importance_loss"]})
    for _ in range(2):
        with bench.database.writing() as session:
            preparations.ask_where_missing(session)
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    _end(bench, claim, "importance_loss")
    with bench.database.writing() as session:
        preparations.ask_where_missing(session)
    assert jobs.claim_next(bench.database, owner="test", lease_seconds=60) is None


def test_equal_bytes_that_another_version_names_stay_and_are_not_called_absent(bench: Bench, name: str) -> None:
    claim, _ = _start(bench, _ask(bench, name, "importance_loss"))
    (digest,) = _end(bench, claim, "importance_loss")
    other = factories.version(bench, name)
    with bench.database.writing() as session:
        session.add(PreparedFile(version_id=other.id, name="importance_loss", sha256=digest, size_bytes=64, samples=40,
                                 seconds=1.0, job_id=claim.job_id))  # fmt: skip
    _set(bench, name, VersionState.RETIRED)
    retirement.purge(bench)
    assert bench.artifacts.size(digest) is not None
    assert _purged(bench, name) == {"preparations_absent": 0, "preparations_shared": 1, "candidates_absent": 0}


def test_a_candidate_that_waits_goes_with_the_version_it_came_from(bench: Bench, name: str) -> None:
    path = bench.settings.data_dir / "candidate"
    path.write_bytes(secrets.token_bytes(64))
    digest = bench.artifacts.put(path)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        job = jobs.create(session, JobKind.ERASE, dataset_id=model.dataset_id, model_id=model.id)
        job.status, job.candidate_sha256, job.candidate_size = JobStatus.HELD, digest, 64
        job.parent_id = versions.get(session, model, 1).id
        job_id = job.id
    _set(bench, name, VersionState.RETIRED)
    retirement.purge(bench)
    assert bench.artifacts.size(digest) is None
    assert _purged(bench, name)["candidates_absent"] == 1
    with bench.database.reading() as session:
        assert jobs.get(session, job_id).candidate_sha256 is None


def _purged(bench: Bench, name: str) -> dict[str, int]:
    """Return what the log says of the files beside the weights of the model's purged version."""
    with bench.database.reading() as session:
        entry = session.query(AuditEntry).where(
            AuditEntry.action == "version.purged", AuditEntry.subject == f"model/{name}/version/1"
        ).one()  # fmt: skip
        return {
            key: n for key, n in json.loads(entry.payload).items() if key.startswith(("preparations", "candidates"))
        }


def test_a_policy_has_a_version_prepared_where_that_can_be_done_now(bench: Bench, name: str) -> None:
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        models.replace_policy(session, model, {**model.policy, "prepare": ["importance_loss"]})
        preparations.ask_where_policy_says(session, model, versions.get(session, model, 1))
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert claim is not None
    assert claim.kind == "prepare_version"
    _end(bench, claim, "importance_loss")
    _name_sample(bench, name)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        preparations.ask_where_policy_says(session, model, versions.get(session, model, 1))
    assert jobs.claim_next(bench.database, owner="test", lease_seconds=60) is None
