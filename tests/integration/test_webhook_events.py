"""Events for webhooks come from every move, in its transaction, as the catalogue says, and hold no sample ID."""

import ast
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from sqlalchemy import delete, event, select, update

from service.catalogue.webhook_events import EVENTS
from service.lifecycle import JobStatus, RequestStatus, VersionState
from service.store import audit, cancel, intake, jobs, outbox, requests, versions
from service.store.intake import Secrets
from service.store.tables import DeletionRequest, Job, Version, WebhookEndpoint, WebhookEvent
from service.store.types import now
from tests import factories
from workers import sweeper
from workers.tasks import Bench

SECRETS = Secrets(suppression=b"s" * 32, wrapping=b"w" * 32, time_zone="UTC")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bench_settings() -> dict[str, Any]:
    return {"max_attempts": 1}


@pytest.fixture
def listener(bench: Bench) -> Iterator[str]:
    """An endpoint, which is what makes events be stored."""
    yield factories.webhook(bench)
    with bench.database.writing() as session:
        session.execute(delete(WebhookEndpoint))
        session.execute(delete(WebhookEvent))


@pytest.fixture
def name(bench: Bench, request: pytest.FixtureRequest) -> str:
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    with bench.database.writing() as session:
        session.execute(update(Job).where(Job.finished_at.is_(None)).values(status="cancelled", finished_at=now()))
    factories.dataset(bench, found)
    factories.model(bench, found, of=found)
    factories.version(bench, found)
    return found


def _ask(bench: Bench, name: str, *named: str) -> tuple[str, list[str]]:
    order = factories.order(name, *named)
    with bench.database.writing() as session:
        accepted = intake.accept(session, order, SECRETS)
        return accepted.request.id, [job.id for job, _ in accepted.jobs]


def _events(bench: Bench) -> list[WebhookEvent]:
    with bench.database.reading() as session:
        return list(session.scalars(select(WebhookEvent).order_by(WebhookEvent.time, WebhookEvent.id)))


def _types(bench: Bench) -> list[str]:
    return [each.type for each in _events(bench)]


def _as_the_catalogue_says(found: WebhookEvent) -> None:
    payload = {"type": found.type, "timestamp": audit.moment(found.time), "data": found.data}
    jsonschema.Draft202012Validator(EVENTS[found.type].schema).validate(payload)


def test_without_an_endpoint_no_event_is_stored(bench: Bench, name: str) -> None:
    _ask(bench, name, "train-0")
    assert _events(bench) == []


def test_the_events_of_a_request_cost_its_transaction_one_statement(bench: Bench, name: str) -> None:
    ran: list[str] = []

    def note(*given: Any) -> None:
        ran.append(given[2])

    event.listen(bench.database.engine, "before_cursor_execute", note)
    try:
        _ask(bench, name, "train-0")
    finally:
        event.remove(bench.database.engine, "before_cursor_execute", note)
    assert len([statement for statement in ran if "webhook" in statement]) == 1


def test_a_request_that_is_cancelled_is_told_of_in_order(bench: Bench, name: str, listener: str) -> None:
    request_id, _ = _ask(bench, name, "train-0", "train-1")
    with bench.database.writing() as session:
        cancel.cancel(session, request_id)
    found = _events(bench)
    assert [each.type for each in found] == ["request.accepted", "request.cancelled"]
    assert [each.data["status"] for each in found] == ["accepted", "cancelled"]
    assert {each.data["request"] for each in found} == {request_id}
    assert found[0].data["dataset"] == name
    for each in found:
        _as_the_catalogue_says(each)


def test_a_request_that_needs_no_work_is_completed_with_its_counts(bench: Bench, name: str, listener: str) -> None:
    _ask(bench, name, "audit-0")
    found = _events(bench)
    assert [each.type for each in found] == ["request.accepted", "request.completed"]
    assert found[1].data["outcomes"]["erased_not_trained_on"] == 1
    _as_the_catalogue_says(found[1])


@pytest.mark.parametrize("status", [RequestStatus.DENIED, RequestStatus.ON_HOLD, RequestStatus.FAILED])
def test_every_move_of_a_request_is_told_of_and_free_text_is_not(
    bench: Bench, name: str, listener: str, status: RequestStatus
) -> None:
    request_id, _ = _ask(bench, name, "train-0")
    with bench.database.writing() as session:
        request = session.get_one(DeletionRequest, request_id)
        requests.move(session, request, status, reason=f"says {name}-train-0 herself", reason_code="no_match")
    found = _events(bench)[-1]
    assert (found.type, found.data["reason_code"]) == (f"request.{status}", "no_match")
    assert "reason" not in found.data
    _as_the_catalogue_says(found)


def test_a_job_that_is_poisoned_is_told_of_by_its_code(bench: Bench, name: str, listener: str) -> None:
    request_id, (job_id,) = _ask(bench, name, "train-0")
    claim = jobs.claim_next(bench.database, owner="test", lease_seconds=20)
    assert claim is not None
    with bench.database.writing() as session:
        past = now() - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=past))
    sweeper.sweep(bench, lambda _: None)
    assert _types(bench) == ["request.accepted", "request.in_progress", "job.poisoned", "request.failed"]
    found = _events(bench)[2]
    assert (found.data["job"], found.data["model"], found.data["error"]) == (job_id, name, "poisoned")
    assert found.data["requests"] == [request_id]
    for each in _events(bench):
        _as_the_catalogue_says(each)


@pytest.mark.parametrize("status", [JobStatus.HELD, JobStatus.FAILED])
def test_a_job_that_is_stuck_is_told_of(bench: Bench, name: str, listener: str, status: JobStatus) -> None:
    _, (job_id,) = _ask(bench, name, "train-0")
    with bench.database.writing() as session:
        job = session.get_one(Job, job_id)
        job.status, job.error = JobStatus.RUNNING, {"code": "odd one", "detail": f"{name}-train-0"}
        jobs.move(session, job, status, f"job.{status}")
    found = _events(bench)[-1]
    assert (found.type, found.data["status"]) == (f"job.{status}", status)
    assert "error" not in found.data, "it is no bare code"
    _as_the_catalogue_says(found)


def test_the_states_of_a_version_are_told_of(bench: Bench, name: str, listener: str) -> None:
    made = factories.version(bench, name)
    with bench.database.writing() as session:
        row = session.get_one(Version, made.id)
        for state in (VersionState.QUARANTINED, VersionState.RETIRED, VersionState.PURGED):
            versions.move(session, row, state)
    found = _events(bench)
    assert [each.type for each in found] == [
        f"version.{state}" for state in ("activated", "quarantined", "retired", "purged")
    ]
    assert {(each.data["model"], each.data["version"], each.data["sha256"]) for each in found} == {
        (name, made.number, made.sha256)
    }
    for each in found:
        _as_the_catalogue_says(each)


def test_what_is_rolled_back_is_not_told_of(bench: Bench, listener: str) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        _announce_and_fail(bench)
    assert _events(bench) == []


def _announce_and_fail(bench: Bench) -> None:
    with bench.database.writing() as session:
        outbox.announce(session, "certificate.issued", {})
        raise RuntimeError("stop")


def test_no_event_holds_a_sample_id(bench: Bench, name: str, listener: str) -> None:
    request_id, _ = _ask(bench, name, "train-0", "train-1")
    with bench.database.writing() as session:
        cancel.cancel(session, request_id)
    assert f"{name}-train" not in json.dumps([each.data for each in _events(bench)])


def test_a_type_the_catalogue_does_not_list_cannot_be_announced(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"request\.vanished"), bench.database.writing() as session:
        outbox.announce(session, "request.vanished", {})


def _announced_literally() -> set[str]:
    found = set[str]()
    for path in [*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            named = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
            if named == "announce" and isinstance(node, ast.Call) and len(node.args) > 1:
                kind = node.args[1]
                found |= {kind.value} if isinstance(kind, ast.Constant) and isinstance(kind.value, str) else set()
    return found


def test_every_type_that_the_code_announces_is_in_the_catalogue() -> None:
    assert _announced_literally() <= set(EVENTS)
    named = {f"request.{status}" for status in RequestStatus if status != RequestStatus.RECEIVED}
    named |= {f"job.{status}" for status in (JobStatus.HELD, JobStatus.POISONED, JobStatus.FAILED)}
    named |= {f"version.{state}" for state in ("activated", "retired", "purged", "withdrawn")}
    named |= {f"request.deadline_{share}" for share in (50, 80, 100)} | {"request.overdue", "certificate.issued"}
    assert named <= set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_the_schema_of_an_event_is_a_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(EVENTS[name].schema)
