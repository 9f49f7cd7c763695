"""Requests too small to test membership gather for a while, never at the cost of a due date."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from service.store import intake, jobs, models, versions
from service.store.intake import Order, Secrets
from service.store.tables import Job, Sample
from service.store.types import now
from tests import factories
from workers.bench import Bench
from workers.order_parts import Place, Prepared
from workers.orders import prepare

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
ENOUGH = 268
"""The smallest n with 4 sqrt((2n + 1) / (12 n^2)) <= 0.10."""


@pytest.fixture
def name(bench: Bench) -> str:
    """Name a dataset of one class and its model, which gathers; earlier tests' jobs are out of the way."""
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    return _gathering(bench, classes=1)


def _gathering(bench: Bench, *, classes: int, **policy: Any) -> str:
    found = f"s{secrets.token_hex(4)}"
    factories.dataset(bench, found, train=700, held_out=300, classes=classes)
    factories.model(bench, found, of=found, policy={"small_sets": "gather", **policy})
    factories.version(bench, found)
    return found


def _ask(bench: Bench, name: str, places: Sequence[int], **changes: Any) -> str:
    """Ask to forget the train samples at these places; return the one job that will."""
    order: dict[str, Any] = {
        "dataset": name,
        "sample_ids": [f"{name}-train-{place}" for place in places],
        "purpose": "privacy",
        "method": "auto",
        "method_options": {},
        "models": None,
        "report_unresolved": False,
        "received_at": None,
        "principal_id": "key_test",
        "may_read_datasets": True,
    }
    with bench.database.writing() as session:
        ((job, _),) = intake.accept(session, Order(**{**order, **changes}), SECRETS).jobs
        return job.id


def _job(bench: Bench, job_id: str) -> Job:
    with bench.database.reading() as session:
        return session.get_one(Job, job_id)


def _prepared(bench: Bench, job_id: str) -> Prepared:
    place = Place(settings=bench.settings, artifacts=bench.artifacts, out=bench.settings.data_dir)
    with bench.database.reading() as session:
        return prepare(session, session.get_one(Job, job_id), place)


def _exclude(bench: Bench, name: str, places: Sequence[int]) -> None:
    """Declare that the model's version was not trained on these samples."""
    with bench.database.writing() as session:
        wanted = [f"{name}-train-{place}" for place in places]
        keys = list(session.scalars(select(Sample.id).where(Sample.sample_id.in_(wanted))))
        versions.exclude(session, versions.get(session, models.by_name(session, name), 1), keys)


def test_a_small_request_waits_and_runs_disclosing_that_membership_was_not_tested(bench: Bench, name: str) -> None:
    job_id = _ask(bench, name, [0])
    job = _job(bench, job_id)
    assert job.not_before is not None
    assert job.due_at is not None
    waited, left = job.not_before - now(), job.due_at - now()
    assert abs(waited / left - 0.1) < 0.001, "a tenth of the time left"
    assert jobs.claim_next(bench.database, owner="w", lease_seconds=20) is None
    with bench.database.writing() as session:
        session.get_one(Job, job_id).not_before = now()
    claim = jobs.claim_next(bench.database, owner="w", lease_seconds=20)
    assert claim is not None
    assert claim.job_id == job_id
    prepared = _prepared(bench, job_id)
    assert prepared.order is not None
    assert (prepared.rung_name, prepared.order["bar"]["disclose_small"]) == ("neggrad_plus", True)


def test_an_urgent_request_that_joins_cuts_the_wait_to_its_own(bench: Bench, name: str) -> None:
    job_id = _ask(bench, name, [0])
    alone = _job(bench, job_id).not_before
    assert _ask(bench, name, [1], received_at=now() - timedelta(days=25)) == job_id
    job = _job(bench, job_id)
    assert alone is not None
    assert job.not_before is not None
    assert job.due_at is not None
    assert now() < job.not_before < alone
    assert job.not_before <= now() + 0.1 * (job.due_at - now()) + timedelta(seconds=60)


def test_a_patient_request_that_joins_lengthens_no_wait(bench: Bench, name: str) -> None:
    job_id = _ask(bench, name, [0], received_at=now() - timedelta(days=25))
    before = _job(bench, job_id).not_before
    assert _ask(bench, name, [1]) == job_id
    assert _job(bench, job_id).not_before == before


def test_a_request_that_is_too_urgent_to_wait_starts_the_job_it_joins(bench: Bench, name: str) -> None:
    job_id = _ask(bench, name, [0])
    assert _ask(bench, name, [1], received_at=now() - timedelta(days=40)) == job_id
    claim = jobs.claim_next(bench.database, owner="w", lease_seconds=20)
    assert claim is not None
    assert claim.job_id == job_id


@pytest.mark.parametrize(("training_hours", "margin_days"), [(None, 20), (1, 20), (11 * 24, 22)])
def test_no_wait_reaches_into_the_time_that_the_surest_method_needs(
    bench: Bench, training_hours: float | None, margin_days: float
) -> None:
    name = _gathering(bench, classes=1, gather_share=0.5, surest_within_hours=20 * 24)
    if training_hours is not None:
        with bench.database.writing() as session:
            version = versions.get(session, models.by_name(session, name), 1)
            version.training_seconds = training_hours * 3600
    job = _job(bench, _ask(bench, name, [0]))
    assert job.not_before is not None
    assert job.due_at is not None
    assert job.due_at - job.not_before == timedelta(days=margin_days)


def test_ids_that_the_model_does_not_know_are_no_reason_to_begin(bench: Bench, name: str) -> None:
    _exclude(bench, name, range(300))
    job_id = _ask(bench, name, [300])
    assert _ask(bench, name, [*range(300), 301]) == job_id
    assert _job(bench, job_id).not_before is not None, "302 named, 2 known"
    assert _ask(bench, name, range(302, 302 + ENOUGH - 3)) == job_id
    assert _job(bench, job_id).not_before is not None, "one short of enough"
    assert _ask(bench, name, [699]) == job_id
    assert _job(bench, job_id).not_before is None


def test_samples_without_a_control_of_their_label_are_no_reason_to_begin(bench: Bench) -> None:
    name = _gathering(bench, classes=2)
    job_id = _ask(bench, name, range(0, 600, 2))
    assert _job(bench, job_id).not_before is not None, "300 of a class, 150 controls of it"
    situation = _prepared(bench, job_id).situation
    assert situation is not None
    assert situation.forget_count == 150
    assert _ask(bench, name, range(1, 601, 2)) == job_id
    assert _job(bench, job_id).not_before is None


def test_a_policy_without_a_bound_on_an_attack_has_nothing_to_wait_for(bench: Bench) -> None:
    name = _gathering(bench, classes=1, gate={"privacy": []})
    assert _job(bench, _ask(bench, name, [0])).not_before is None


@pytest.mark.parametrize(
    ("purpose", "gate", "tested"),
    [
        ("privacy", {}, True),
        ("privacy", {"privacy": [{"metric": "relearning_ratio", "at_least": 0.8}]}, False),
        ("privacy", {"privacy": [{"metric": "rmia.offline.auc", "at_most": 0.6, "required": False}]}, False),
        ("privacy", {"privacy": [{"metric": "rmia.offline.auc", "at_most": 0.6}]}, True),
        ("bias", {}, False),
        ("confusion", {}, False),
    ],
)
def test_membership_is_tested_where_a_required_bound_is_on_an_attack(
    bench: Bench, purpose: str, gate: dict[str, Any], *, tested: bool
) -> None:
    name = _gathering(bench, classes=1, gate=gate)
    situation = _prepared(bench, _ask(bench, name, [0], purpose=purpose)).situation
    assert situation is not None
    assert situation.tests_membership == tested


@pytest.mark.parametrize(
    ("age_days", "training_hours", "rung"), [(0, 1, "neggrad_plus"), (0, 400, "retrain"), (40, 1, "retrain")]
)
def test_a_job_near_its_due_date_goes_straight_to_the_surest_method(
    bench: Bench, age_days: float, training_hours: float, rung: str
) -> None:
    name = _gathering(bench, classes=1, small_sets="disclose")
    with bench.database.writing() as session:
        versions.get(session, models.by_name(session, name), 1).training_seconds = training_hours * 3600
    job_id = _ask(bench, name, [0], received_at=now() - timedelta(days=age_days))
    assert _prepared(bench, job_id).rung_name == rung
