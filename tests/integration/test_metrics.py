"""GET /metrics: the gauges an operator watches, for a scraper with a key, without a word about anybody."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from service.app import create_app
from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind
from service.settings import Settings
from service.store import audit, checkpoints, jobs, keys, workers
from service.store.session import Database
from service.store.tables import Attempt, AuditHead, Job, Version
from service.store.types import now
from tests import factories


@dataclass(frozen=True, kw_only=True)
class Service:
    """The API in this process, without its duties, on a store of the test's own."""

    settings: Settings
    database: Database
    client: TestClient

    def headers(self, *scopes: str) -> dict[str, str]:
        with self.database.writing() as session:
            key = keys.create(session, name="test", scopes=list(scopes))[1]
        return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def stack(own_settings: Settings) -> Iterator[Service]:
    app = create_app(own_settings)
    found = Service(settings=own_settings, database=app.state.parts.database, client=TestClient(app))
    factories.dataset(found)
    factories.model(found)
    factories.version(found)
    yield found
    found.database.dispose()


def _ask(stack: Service, *days: int) -> None:
    """Make a request for a sample of its own, received so many days ago."""
    headers = stack.headers("admin")
    for i, each in enumerate(days):
        received_at = (now() - timedelta(days=each)).isoformat()
        body = {"dataset": "d", "sample_ids": [f"d-train-{i}"], "received_at": received_at}
        stack.client.post("/v1/deletion-requests", json=body, headers=headers).raise_for_status()


def _scrape(stack: Service) -> dict[tuple[str, str], float]:
    """Return each sample of a scrape by name and label's value."""
    answer = stack.client.get("/metrics", headers=stack.headers("metrics:read")).raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "d-train" not in answer.text
    return {
        (sample.name.removeprefix("unlearning_"), "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_there_is_none_of_is_shown_as_0_and_all_of_it_is_counted(stack: Service) -> None:
    empty = _scrape(stack)
    zero: list[tuple[str, str]] = [("deletion_requests_open", status) for status in REQUEST_OPEN]
    zero += [(name, kind) for name in ("jobs_queued", "jobs_oldest_queued_age_seconds") for kind in JobKind]
    zero += [("jobs_stuck", status) for status in JOB_STUCK]
    alone = ("overdue", "due_soon", "oldest_open_age_seconds")
    zero += [("workers_alive", ""), *((f"deletion_requests_{name}", "") for name in alone)]
    assert {name: empty[name] for name in zero} == dict.fromkeys(zero, 0.0)

    _ask(stack, 1, 26, 40)
    with stack.database.writing() as session:
        workers.seen(session, "w")
        (job,) = session.query(Job).filter(Job.status == "queued").all()
        job.created_at = now() - timedelta(hours=1)
        stuck = jobs.create(session, JobKind.TRIM, dataset_id=job.dataset_id, model_id=job.model_id)
        stuck.status = "poisoned"
    found = _scrape(stack)
    assert found["deletion_requests_open", "accepted"] == 3
    assert found["deletion_requests_overdue", ""] == 1
    assert found["deletion_requests_due_soon", ""] == 1
    assert found["deletion_requests_oldest_open_age_seconds", ""] == pytest.approx(40 * 86400, abs=120)
    assert found["jobs_queued", "erase"] == 1
    assert found["jobs_oldest_queued_age_seconds", "erase"] == pytest.approx(3600, abs=120)
    assert found["jobs_stuck", "poisoned"] == 1
    assert found["workers_alive", ""] == 1
    with stack.database.reading() as session:
        assert 0 < found["audit_log_entries", ""] <= session.get_one(AuditHead, 1).size
    checkpoints.fresh(stack.database, stack.settings)
    found = _scrape(stack)
    assert 0 < found["audit_checkpoint_entries", ""] <= found["audit_log_entries", ""]


def test_attempts_workers_and_what_was_left_lying_are_counted(stack: Service) -> None:
    _ask(stack, 1)
    with stack.database.writing() as session:
        job = session.query(Job).filter(Job.kind == "erase").one()
        begun = now() - timedelta(hours=1)
        ends = [("published", 60), ("published", 120), ("gate_fail", 30), ("lost", 5)]
        for fence, (outcome, seconds) in enumerate(ends, start=100):
            ended = begun + timedelta(seconds=seconds)
            attempt = Attempt(job_id=job.id, fence=fence, method="scrub", owner="w", outcome=outcome)
            attempt.started_at, attempt.finished_at = begun, ended
            session.add(attempt)
        for verdict in ("pass", "pass", "fail"):
            audit.record(session, "evaluation.recorded", subject="evaluation/x", payload={"gate": verdict})
        version = session.query(Version).one()
        version.state, version.retired_at = "retired", now() - timedelta(days=1)
        workers.seen(session, "gpu-host:1", gpu_memory=(3, 7))
    found = _scrape(stack)
    assert found["attempt_seconds_count", "scrubpublished"] == 2
    assert found["attempt_seconds_sum", "scrubpublished"] == pytest.approx(180, abs=0.01)
    assert found["attempt_seconds_count", "scrubgate_fail"] == 1
    assert found["leases_lost_total", ""] == 1
    assert {v: found["gate_verdicts_total", v] for v in ("pass", "fail", "inconclusive")} == {
        "pass": 2, "fail": 1, "inconclusive": 0
    }  # fmt: skip
    assert found["versions_awaiting_purge", ""] == 1
    assert (found["gpu_memory_bytes", "usedgpu-host:1"], found["gpu_memory_bytes", "totalgpu-host:1"]) == (3, 7)
    assert found["workers", "gone"] == 0
    assert found["workers", "idle"] == found["workers_alive", ""]


def test_a_scraper_needs_a_key_with_the_scope_and_that_key_does_nothing_else(stack: Service) -> None:
    assert stack.client.get("/metrics").status_code == 401
    others = stack.headers("audit", "requests", "datasets", "models", "weights")
    assert stack.client.get("/metrics", headers=others).json()["code"] == "forbidden"
    scraper = stack.headers("metrics:read")
    assert stack.client.get("/v1/deletion-requests", headers=scraper).status_code == 403
    assert stack.client.get("/v1/audit/entries", headers=scraper).status_code == 403
