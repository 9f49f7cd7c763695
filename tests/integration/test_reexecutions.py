"""A job is committed to its first result and drawn once: beginning again gives no other draw, and no way round it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from service import migrate
from service.evidence.reexecution import is_chosen
from service.settings import Settings
from service.store import audit, intake, jobs, reexecutions
from service.store.intake import Order, Secrets
from service.store.jobs import Claim, LeaseLost
from service.store.reexecutions import Committed, Draw
from service.store.tables import AuditEntry, Job
from service.store.types import now
from tests import factories
from workers.bench import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
FIRST, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    settings = Settings(data_dir=tmp_path_factory.mktemp("drawing"), database_url=url)
    migrate.upgrade(settings.resolved_database_url)
    found = Bench.open(settings)
    factories.dataset(found)
    factories.model(found)
    factories.version(found)
    yield found
    found.database.dispose()


@pytest.fixture
def claim(bench: Bench) -> Claim:
    """A claimed erasure job of its own."""
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
        free = session.scalar(select(func.count()).select_from(Job)) or 0
        order: dict[str, Any] = {"dataset": "d", "sample_ids": [f"d-train-{free}"], "purpose": "privacy"}
        order |= {"method": "finetune", "method_options": {}, "models": None, "report_unresolved": False}
        order |= {"received_at": None, "principal_id": "key_test", "may_read_datasets": True}
        intake.accept(session, Order(**order), SECRETS)
    return _claimed(bench)


def _claimed(bench: Bench) -> Claim:
    found = jobs.claim_next(bench.database, owner="test", lease_seconds=60)
    assert found is not None
    return found


def _killed(bench: Bench, claim: Claim) -> Claim:
    """Return the claim of the next attempt, after the worker of this one was killed."""
    with bench.database.writing() as session:
        jobs.give_back(session, session.get_one(Job, claim.job_id), max_attempts=99, reason="killed")
    return _claimed(bench)


def _commit(bench: Bench, claim: Claim, sha256: str = FIRST) -> None:
    result = Committed(sha256=sha256, parent_sha256="c" * 64, method="finetune", parameters_sha256="d" * 64, seed=3)
    with bench.database.writing() as session:
        reexecutions.commit(session, claim, result)


def _sign(session: Session, size: int) -> str:
    return f"log\n{size}\n"


def _draw(bench: Bench, claim: Claim, share: float = 0.5) -> Draw:
    with bench.database.writing() as session:
        return reexecutions.draw(session, claim, share=share, sign=_sign)


def _entries(bench: Bench, claim: Claim, action: str) -> list[AuditEntry]:
    with bench.database.reading() as session:
        return audit.find(session, actions=(action,), links={"job": claim.job_id})


def _something_else_is_logged(bench: Bench) -> None:
    with bench.database.writing() as session:
        audit.record(session, "key.created", subject="key/x", payload={})


def test_the_draw_is_that_of_the_log_up_to_the_commitment(bench: Bench, claim: Claim) -> None:
    _commit(bench, claim)
    _something_else_is_logged(bench)
    found = _draw(bench, claim)
    committed = _entries(bench, claim, "job.result_committed")[0]
    assert (found.seq, found.sha256) == (committed.seq, FIRST)
    assert found.note == f"log\n{committed.seq + 1}\n"
    assert found.chosen == is_chosen(found.note, claim.job_id, share=0.5)
    logged = json.loads(_entries(bench, claim, "job.reexecution_drawn")[0].payload)
    assert logged["note"] == found.note
    assert (logged["chosen"], logged["share"]) == (found.chosen, 0.5)


def test_no_draw_before_a_commitment(bench: Bench, claim: Claim) -> None:
    with pytest.raises(LookupError):
        _draw(bench, claim)


def test_ending_the_worker_between_commitment_and_draw_changes_nothing(bench: Bench, claim: Claim) -> None:
    _commit(bench, claim)
    size = _entries(bench, claim, "job.result_committed")[0].seq + 1
    for _ in range(5):
        claim = _killed(bench, claim)
        _something_else_is_logged(bench)
        _commit(bench, claim)
    found = _draw(bench, claim)
    assert found.note == f"log\n{size}\n"
    assert len(_entries(bench, claim, "job.result_committed")) == 1


def test_ending_the_worker_after_the_draw_gives_the_same_draw(bench: Bench, claim: Claim) -> None:
    _commit(bench, claim)
    found = _draw(bench, claim)
    for share in (0.0, 1.0):
        claim = _killed(bench, claim)
        _commit(bench, claim)
        assert _draw(bench, claim, share=share) == found
    assert len(_entries(bench, claim, "job.reexecution_drawn")) == 1


def test_another_result_is_logged_beside_the_first_and_does_not_draw_again(bench: Bench, claim: Claim) -> None:
    _commit(bench, claim)
    found = _draw(bench, claim, share=0.0)
    claim = _killed(bench, claim)
    _commit(bench, claim, OTHER)
    assert _draw(bench, claim, share=0.0) == found
    first, second = [json.loads(entry.payload) for entry in _entries(bench, claim, "job.result_committed")]
    assert (first["sha256"], "instead_of" in first) == (FIRST, False)
    assert (second["sha256"], second["instead_of"]) == (OTHER, FIRST)


def test_a_worker_that_lost_its_lease_neither_commits_nor_draws(bench: Bench, claim: Claim) -> None:
    _killed(bench, claim)
    with pytest.raises(LeaseLost):
        _commit(bench, claim)
    with pytest.raises(LeaseLost):
        _draw(bench, claim)
    assert _entries(bench, claim, "job.result_committed") == []


def test_earlier_divergences_are_counted(bench: Bench, claim: Claim) -> None:
    _commit(bench, claim)
    for _ in range(2):
        with bench.database.writing() as session:
            reexecutions.ended(session, claim, equal=False, account={"sha256": FIRST})
        claim = _killed(bench, claim)
    with bench.database.writing() as session:
        reexecutions.ended(session, claim, equal=True, account={"sha256": FIRST})
    assert _draw(bench, claim).divergences == 2
