"""GET /metrics: the gauges an operator watches, for a scraper with a key, without a word about anybody."""

from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.lifecycle import JOB_STUCK, REQUEST_OPEN, JobKind
from service.store import audit, checkpoints, jobs, workers
from service.store.tables import Attempt, AuditHead, Job, Version
from service.store.types import now
from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("metrics"), worker=False, **settings) as found:
        factories.dataset(found)
        factories.model(found)
        factories.version(found)
        yield found


def _scrape(stack: Stack) -> dict[tuple[str, str], float]:
    """Return each sample of a scrape by name and label's value."""
    with stack.client_with("metrics:read") as scraper:
        answer = scraper.get("/metrics").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "d-train" not in answer.text
    return {
        (sample.name.removeprefix("unlearning_"), "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_there_is_none_of_is_shown_as_0_and_all_of_it_is_counted(stack: Stack) -> None:
    empty = _scrape(stack)
    zero: list[tuple[str, str]] = [("deletion_requests_open", status) for status in REQUEST_OPEN]
    zero += [(name, kind) for name in ("jobs_queued", "jobs_oldest_queued_age_seconds") for kind in JobKind]
    zero += [("jobs_stuck", status) for status in JOB_STUCK]
    alone = ("overdue", "due_soon", "oldest_open_age_seconds")
    zero += [("workers_alive", ""), *((f"deletion_requests_{name}", "") for name in alone)]
    assert {name: empty[name] for name in zero} == dict.fromkeys(zero, 0.0)

    for i, days in enumerate((1, 26, 40)):
        body = {
            "dataset": "d",
            "sample_ids": [f"d-train-{i}"],
            "received_at": (now() - timedelta(days=days)).isoformat(),
        }
        stack.client.post("/v1/deletion-requests", json=body).raise_for_status()
    with stack.database.writing() as session:
        workers.seen(session, "w")
        (job,) = session.query(Job).filter(Job.status == "queued").all()
        job.created_at = now() - timedelta(hours=1)
        stuck = jobs.create(session, JobKind.INDEX, dataset_id=job.dataset_id)
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


def test_attempts_workers_and_what_was_left_lying_are_counted(stack: Stack) -> None:
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
        state, version.state, version.retired_at = version.state, "retired", now() - timedelta(days=1)
        workers.seen(session, "gpu-host:1", gpu_memory=(3, 7))
    found = _scrape(stack)
    with stack.database.writing() as session:
        session.get_one(Version, version.id).state = state
        session.get_one(Version, version.id).retired_at = None
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


def test_a_scraper_needs_a_key_with_the_scope_and_that_key_does_nothing_else(stack: Stack) -> None:
    assert httpx.get(f"{stack.base_url}/metrics").status_code == 401
    with stack.client_with("audit", "requests", "datasets", "models", "weights") as other:
        assert other.get("/metrics").json()["code"] == "forbidden"
    with stack.client_with("metrics:read") as scraper:
        assert scraper.get("/v1/deletion-requests").status_code == 403
        assert scraper.get("/v1/audit/entries").status_code == 403
