"""A worker killed by SIGKILL in mid-attempt loses nothing: the request completes, with one published version."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stack import Stack, running

LONG: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 40, "seed": 3, "lr": 0.05, "batch_size": 16}}


@pytest.fixture(params=["sqlite and files", "postgresql and valkey"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param.startswith("postgresql"):
        settings = {
            "database_url": request.getfixturevalue("postgres_database_url"),
            "broker_url": request.getfixturevalue("valkey_url"),
        }
    with running(tmp_path, worker=True, **settings) as found:
        yield found


def _in_mid_attempt(stack: Stack, job_id: str) -> Any:
    return stack.wait(f"/v1/jobs/{job_id}", lambda job: job["progress"]["phase"] and job["progress"]["done"] > 1)


def test_a_killed_worker_costs_time_and_nothing_else(stack: Stack) -> None:
    stack.register()
    stack.train(epochs=3)
    request = stack.erase(stack.ids(30), **LONG)
    job_id = request["jobs"][0]["id"]
    _in_mid_attempt(stack, job_id)
    worker = stack.worker
    assert worker is not None
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children, "the attempt runs in a child process"
    stack.kill_worker()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children), "the child outlived its worker"
    assert stack.client.get(f"/v1/jobs/{job_id}").json()["status"] == "running"

    killed_at = time.monotonic()
    stack.start_worker()
    restarted = stack.wait(f"/v1/jobs/{job_id}", lambda job: job["attempts"] == 2)
    assert time.monotonic() - killed_at < 2 * stack.settings.lease_seconds + 60  # a busy machine starts slowly
    assert restarted["status"] in ("running", "evaluating", "published")

    assert stack.completed(request["id"])["status"] == "completed"
    versions = stack.client.get("/v1/models/m/versions").json()["items"]
    assert [version["role"] for version in versions] == ["original", "unlearned"]
    assert versions[1]["state"] == "active"
    assert versions[0]["state"] in ("retired", "purged")
    entries = stack.client.get("/v1/audit/entries", params={"limit": 500}).json()["items"]
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    actions = [entry["action"] for entry in entries if entry["subject"] == f"job/{job_id}"]
    assert actions.count("job.published") == 1
    assert actions.count("job.requeued") == 1
    assert actions.count("job.claimed") == 2
