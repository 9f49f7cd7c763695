"""Which version is the yardstick of an approximate method: trained from scratch on what is left, on no more or less."""

import secrets
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, update

from service.lifecycle import JobKind, RequestStatus, SampleState, VersionState
from service.store import jobs, models, retrained, samples, versions
from service.store.tables import Dataset, DeletionRequest, Job, RequestSample, Sample, Version
from service.store.types import new_id, now
from tests import factories
from workers.bench import Bench
from workers.order_parts import Place
from workers.orders import prepare

FORGOTTEN = range(6)


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a model with one version that was trained on everything."""
    found = f"m{secrets.token_hex(4)}"
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


def _version(
    bench: Bench, name: str, without: Sequence[int], *, state: VersionState = VersionState.ACTIVE, **fields: Any
) -> int:
    """Add a version that was not trained on the train samples at these places; return its number."""
    path = bench.settings.data_dir / "weights"
    path.write_bytes(secrets.token_bytes(64))
    digest = factories.stack_artifacts(bench, path)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        how = {"role": "original", "origin": "trained", **fields}
        row = versions.create(session, model, state=state, sha256=digest, size_bytes=64, **how)
        versions.exclude(session, row, _keys(bench, name, without))
        versions.count_training(session, row, model.dataset_id)
        return row.number


def _keys(bench: Bench, name: str, places: Sequence[int]) -> list[int]:
    with bench.database.reading() as session:
        wanted = [f"{name}-train-{place}" for place in places]
        return list(session.scalars(select(Sample.id).where(Sample.sample_id.in_(wanted))))


def _newest(bench: Bench, name: str) -> int | None:
    retained = _keys(bench, name, range(len(FORGOTTEN), 40))
    with bench.database.reading() as session:
        found = retrained.newest(session, models.by_name(session, name), retained)
        return None if found is None else found.number


def test_the_newest_version_trained_on_what_is_left_is_taken(bench: Bench, name: str) -> None:
    assert _newest(bench, name) is None, "the parent knows the samples"
    first = _version(bench, name, FORGOTTEN)
    assert _newest(bench, name) == first
    second = _version(bench, name, FORGOTTEN, role="retrained", origin="erasure")
    assert _newest(bench, name) == second
    quarantined = _version(bench, name, FORGOTTEN, state=VersionState.QUARANTINED)
    assert _newest(bench, name) == quarantined


@pytest.mark.parametrize("without", [range(5), range(7), range(1, 7), range(6, 12), ()])
def test_a_version_trained_on_more_or_less_or_other_samples_is_none(
    bench: Bench, name: str, without: Sequence[int]
) -> None:
    _version(bench, name, without)
    assert _newest(bench, name) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "unlearned", "origin": "erasure"},
        {"origin": "uploaded"},
        {"state": VersionState.VALIDATING},
        {"state": VersionState.RETIRED},
        {"state": VersionState.PURGED},
        {"state": VersionState.REJECTED},
    ],
)
def test_a_version_not_trained_from_scratch_or_not_in_circulation_is_none(
    bench: Bench, name: str, fields: dict[str, Any]
) -> None:
    _version(bench, name, FORGOTTEN, **fields)
    assert _newest(bench, name) is None


def test_a_version_of_other_bytes_of_the_dataset_is_none(bench: Bench, name: str) -> None:
    _version(bench, name, FORGOTTEN)
    with bench.database.writing() as session:
        session.execute(update(Dataset).where(Dataset.name == name).values(digest="1" * 64))
    assert _newest(bench, name) is None


@pytest.mark.parametrize(("method", "named"), [("finetune", True), ("retrain", False)])
def test_the_order_of_an_approximate_method_names_the_retrained_weights(
    bench: Bench, name: str, method: str, *, named: bool
) -> None:
    number = _version(bench, name, FORGOTTEN)
    job_id = _ask(bench, name, method)
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.reading() as session:
        prepared = prepare(session, session.get_one(Job, job_id), place)
        model = models.by_name(session, name)
        expected = session.scalars(
            select(Version.sha256).where(Version.model_id == model.id, Version.number == number)
        ).one()
        parent = versions.get(session, model, 1).id
    assert prepared.order is not None
    assert prepared.parent_id == parent
    stated = prepared.order.get("retrained")
    assert (stated is not None) == named
    if stated is not None:
        assert stated == {"weights": str(bench.artifacts.local_path(expected)), "sha256": expected}


@pytest.mark.parametrize("approved", [False, True])
def test_a_candidate_approved_later_claims_no_sample_that_was_withheld_since(
    bench: Bench, name: str, *, approved: bool
) -> None:
    job_id = _ask(bench, name, "retrain")
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.writing() as session:
        samples.set_state(session, _keys(bench, name, [30]), SampleState.PENDING)
        parent = versions.get(session, models.by_name(session, name), 1)
        row = session.get_one(Job, job_id)
        row.rung = "retrain"
        if approved:
            row.parent_id, row.candidate_sha256, row.approved_by = parent.id, parent.sha256, "key_other"
    with bench.database.reading() as session:
        prepared = prepare(session, session.get_one(Job, job_id), place)
    assert (_keys(bench, name, [30])[0] in prepared.excluded_keys) is not approved
    assert set(_keys(bench, name, FORGOTTEN)) <= set(prepared.excluded_keys)


def _ask(bench: Bench, name: str, method: str) -> str:
    """Queue a job that is to forget the samples, whose request is accepted."""
    keys = _keys(bench, name, FORGOTTEN)
    with bench.database.writing() as session:
        model = models.by_name(session, name)
        request = DeletionRequest(
            id=new_id("req"),
            dataset_id=model.dataset_id,
            principal_id="key_test",
            purpose="privacy",
            method=method,
            method_options={},
            models=None,
            scope="full",
            status=RequestStatus.ACCEPTED,
            num_samples=len(keys),
            commitment_root="0" * 64,
            received_at=now(),
        )
        session.add(request)
        session.flush()
        session.add_all(RequestSample(request_id=request.id, sample_id=key, outcome="pending") for key in keys)
        samples.set_state(session, keys, SampleState.PENDING)
        job = jobs.create(
            session,
            JobKind.ERASE,
            dataset_id=model.dataset_id,
            model_id=model.id,
            purpose="privacy",
            method=method,
            method_options={},
            request=request,
        )
        return job.id
