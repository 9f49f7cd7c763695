"""An erasure done twice by a real worker: what changed in between is caught, and killing it is no way out."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, running

TWICE: dict[str, Any] = {"gate": {"privacy": []}, "reexecution_share": 1.0}
LONG: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 25, "seed": 3, "lr": 0.05, "batch_size": 16}}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running(tmp_path, worker=True) as found:
        found.register()
        found.train(epochs=3, policy=TWICE)
        yield found


def _entries(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    entries = stack.client.get("/v1/audit/entries", params={"limit": 500}).raise_for_status().json()["items"]
    return [entry for entry in entries if entry["subject"] == f"job/{job_id}"]


def _negative(images: Path) -> None:
    """Turn every image of the decoded cache to its negative, in place; its header stays."""
    content = bytearray(images.read_bytes())
    start = 10 + int.from_bytes(content[8:10], "little")
    content[start:] = bytes(255 - value for value in content[start:])
    with images.open("r+b") as file:
        file.write(content)


def test_data_changed_between_the_two_executions_keeps_the_result_unpublished(stack: Stack) -> None:
    request = stack.erase(stack.ids(30), method_options={"epochs": 2})
    job_path = f"/v1/jobs/{request['jobs'][0]['id']}"
    # What is measured was read already: only the second execution reads from the cache again.
    stack.wait(job_path, lambda job: job["status"] == "evaluating")
    (images,) = (stack.settings.data_dir / "cache").glob("*/images.npy")
    _negative(images)
    job = stack.job(request["jobs"][0]["id"])
    assert job["status"] == "held"
    assert job["error"]["code"] == "reexecution_diverged"
    assert [version["state"] for version in stack.client.get("/v1/models/m/versions").json()["items"]] == ["active"]
    assert stack.completed(request["id"])["status"] == "on_hold"
    refused = stack.client.post(f"{job_path}/approve")
    assert (refused.status_code, refused.json()["code"]) == (409, "nothing_to_approve")

    _negative(images)
    stack.client.post(f"{job_path}/retry").raise_for_status()
    done = stack.completed(request["id"])
    assert done["status"] == "completed", done
    job = stack.client.get(job_path).json()
    account = stack.client.get(f"/v1/evaluations/{job['evaluation_id']}").json()["reexecution"]
    assert (account["equal"], account["earlier_divergences"], account["because"]) == (True, 1, "draw")
    version = stack.client.get("/v1/models/m/versions/latest").json()
    assert version["sha256"] == account["sha256"] == account["reexecuted_sha256"]
    note = account["checkpoint"]["note"]
    assert account["draw"] == hashlib.sha256(note.encode() + job["id"].encode()).hexdigest()


def test_a_worker_killed_in_the_second_execution_draws_nothing_new(stack: Stack) -> None:
    request = stack.erase(stack.ids(30), **LONG)
    job_id = request["jobs"][0]["id"]
    stack.wait(f"/v1/jobs/{job_id}", lambda job: job["progress"]["phase"] == "reexecute")
    stack.kill_worker()
    before = {entry["action"]: entry for entry in _entries(stack, job_id)}
    assert "job.reexecution_drawn" in before
    assert "job.reexecuted" not in before
    stack.start_worker()
    assert stack.completed(request["id"])["status"] == "completed"
    entries = _entries(stack, job_id)
    actions = [entry["action"] for entry in entries]
    assert {action: actions.count(action) for action in set(actions) if "re" in action} == {
        "job.result_committed": 1,
        "job.reexecution_drawn": 1,
        "job.reexecuted": 1,
        "job.requeued": 1,
    }
    job = stack.client.get(f"/v1/jobs/{job_id}").json()
    account = stack.client.get(f"/v1/evaluations/{job['evaluation_id']}").json()["reexecution"]
    assert (account["chosen"], account["equal"], account["because"]) == (True, True, "draw")
    assert account["committed"]["seq"] == before["job.result_committed"]["seq"]
    assert account["checkpoint"]["note"] == before["job.reexecution_drawn"]["payload"]["note"]
