"""Database, broker, disk and memory fail under a running service on PostgreSQL and Valkey; nothing is lost."""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import factories
from tests.servers import Restartable, restartable_postgres, restartable_valkey
from tests.stack import Stack, running

LONG: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 2, "seed": 3, "lr": 0.05, "batch_size": 64}}


@dataclass(frozen=True)
class Site:
    """A stack and the servers it stands on."""

    stack: Stack
    postgres: Restartable
    valkey: Restartable
    points: Path

    def fail(self, step: str, number: int) -> None:
        (self.points / step).write_text(json.dumps({"do": "fail", "errno": number}))

    def hold(self, step: str) -> None:
        (self.points / f"{step}.go").unlink(missing_ok=True)
        (self.points / step).write_text(json.dumps({"do": "hold"}))

    def held(self, step: str) -> None:
        self.stack.until(lambda: next(iter(self.points.glob(f"{step}.at-*")), None))

    def let_go(self, step: str) -> None:
        for taken in self.points.glob(f"{step}.at-*"):
            taken.unlink()
        (self.points / f"{step}.go").touch()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, points = tmp_path_factory.mktemp("faults"), tmp_path_factory.mktemp("points")
    with (
        restartable_postgres() as postgres,
        restartable_valkey() as valkey,
        running(
            folder,
            database_url=postgres.url,
            broker_url=valkey.url,
            fault_points=str(points),
            storage_retry_seconds="0.5",
        ) as stack,
    ):
        stack.register()
        stack.train(epochs=2)
        yield Site(stack, postgres, valkey, points)


def _actions(stack: Stack, job_id: str) -> list[str]:
    entries = stack.client.get("/v1/audit/entries", params={"job_id": job_id, "limit": 500}).raise_for_status().json()
    return [entry["action"] for entry in entries["items"]]


def test_a_restart_of_the_database_in_mid_run_costs_no_attempt_and_no_result(site: Site) -> None:
    stack = site.stack
    site.hold("attempt.in_epoch")
    request = stack.erase(stack.ids(10), **LONG)
    job_id = request["jobs"][0]["id"]
    site.held("attempt.in_epoch")
    site.postgres.stop()
    for answer in (
        stack.client.get(f"/v1/jobs/{job_id}"),
        stack.client.post("/v1/deletion-requests", json={"dataset": "digits", "sample_ids": ["train/1"]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
    assert stack.client.get("/readyz").status_code == 503
    site.let_go("attempt.in_epoch")
    stack.until(lambda: "database.waited_for" in stack.log.read_text() or None)
    site.postgres.start()

    assert stack.completed(request["id"])["status"] == "completed"
    assert stack.client.get(f"/v1/jobs/{job_id}").json()["attempts"] == 1
    actions = _actions(stack, job_id)
    assert (actions.count("job.published"), actions.count("job.claimed")) == (1, 1)
    assert "request.failed" not in stack.log.read_text(), "nothing was answered by 500"
    assert stack.worker is not None
    assert stack.worker.poll() is None


def test_requests_are_taken_in_without_a_broker_and_done_once_it_is_back(site: Site) -> None:
    stack = site.stack
    site.valkey.stop()
    request = stack.erase(stack.ids(5, skip=10), **LONG)
    assert stack.client.get(f"/v1/deletion-requests/{request['id']}").json()["status"] in ("accepted", "in_progress")
    site.valkey.start()
    assert stack.completed(request["id"])["status"] == "completed"
    assert "request.failed" not in stack.log.read_text()


def test_a_disk_full_while_publishing_delays_the_job_and_leaves_nothing_half_done(site: Site) -> None:
    stack = site.stack
    site.fail("artifact.writing", errno.ENOSPC)
    request = stack.erase(stack.ids(5, skip=15), **LONG)
    job_id = request["jobs"][0]["id"]
    assert stack.completed(request["id"])["status"] == "completed"
    actions = _actions(stack, job_id)
    assert (actions.count("job.postponed"), actions.count("job.published")) == (1, 1)
    artifacts = Path(stack.settings.resolved_artifacts_url)
    assert not list(artifacts.glob("part-*"))


def test_an_upload_onto_a_full_disk_is_refused_and_leaves_nothing(site: Site) -> None:
    stack = site.stack
    site.fail("artifact.writing", errno.ENOSPC)
    before = len(stack.client.get("/v1/models/m/versions").json()["items"])
    body = factories.safetensors(w=[1.0, 2.0])
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = stack.client.post("/v1/models/m/versions", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
    assert len(stack.client.get("/v1/models/m/versions").json()["items"]) == before
    artifacts = Path(stack.settings.resolved_artifacts_url)
    assert not list(artifacts.glob("part-*"))


def test_a_step_that_runs_out_of_memory_is_taken_in_halves_and_the_report_says_so(site: Site) -> None:
    stack = site.stack
    site.fail("attempt.in_epoch", errno.ENOMEM)
    request = stack.erase(stack.ids(5, skip=20), **LONG)
    done = stack.completed(request["id"])
    assert done["status"] == "completed"
    report = stack.client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").json()
    assert report["accumulation"] == {
        "micro_batch_size": 32,
        "halvings": 1,
        "evaluation_batch_size": None,
        "evaluation_halvings": 0,
    }
