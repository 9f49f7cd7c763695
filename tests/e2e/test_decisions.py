"""A person decides while a real worker is at it: the attempt is dropped, nothing of it is published, work goes on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, running

LONG: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 25, "seed": 3, "lr": 0.05, "batch_size": 16}}
QUICK: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 1}}
# Longer than a lease, after which nobody can be at the job any more.
PAUSE_SECONDS = 4.0


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


def _in_mid_attempt(stack: Stack, request: Any) -> None:
    job_id = request["jobs"][0]["id"]
    stack.wait(f"/v1/jobs/{job_id}", lambda job: job["progress"]["phase"] and job["progress"]["done"] > 1)


def _states(stack: Stack) -> list[str]:
    return [each["state"] for each in stack.client.get("/v1/models/m/versions").json()["items"]]


def _decide(stack: Stack, request: Any, what: str, **body: Any) -> Any:
    answer = stack.client.post(f"/v1/deletion-requests/{request['id']}/{what}", json=body or None)
    return answer.raise_for_status().json()


def test_work_under_way_is_dropped_when_its_request_is_held_or_denied(stack: Stack) -> None:
    stack.register()
    stack.train(epochs=3)
    ids = stack.ids(60)

    held = stack.erase(ids[:30], **LONG)
    _in_mid_attempt(stack, held)
    assert _decide(stack, held, "hold", reason="A court asked for it.")["status"] == "on_hold"
    time.sleep(PAUSE_SECONDS)
    job = stack.client.get(f"/v1/jobs/{held['jobs'][0]['id']}").json()
    assert (job["status"], job["on_hold"], job["attempts"]) == ("queued", True, 0)
    assert _states(stack) == ["active"]

    denied = stack.erase(ids[30:45], **LONG)
    _in_mid_attempt(stack, denied)
    assert _decide(stack, denied, "deny", reason="suspected_fraud")["status"] == "denied"

    quick = stack.erase(ids[45:], **QUICK)
    assert stack.completed(quick["id"])["status"] == "completed", "the worker is free for others"
    assert _states(stack) == ["retired", "active"] or _states(stack) == ["purged", "active"]

    assert _decide(stack, held, "release")["status"] == "in_progress"
    document = stack.client.get(f"/v1/deletion-requests/{held['id']}").json()
    assert document["forecast_at"] is not None, "a job of this model and method is past"
    assert stack.completed(held["id"])["status"] == "completed"
    assert _states(stack)[1:] in (["retired", "active"], ["purged", "active"])
    left = stack.client.get("/v1/datasets/digits/samples", params={"split": "train", "limit": 60}).json()["items"]
    assert {each["sample_id"] for each in left} >= set(ids[30:45]), "the denied request's samples are there"
    assert not {each["sample_id"] for each in left} & set(ids[:30]), "the held one's are gone"
