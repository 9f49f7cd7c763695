"""Uploaded weights judged by a real worker, every method over HTTP, and requests that follow one another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from sqlalchemy import select

from service.artifacts import ArtifactStore
from service.lifecycle import SampleState
from service.store.tables import Job, Sample
from tests.stack import Stack, running
from workers.order_parts import Place
from workers.orders import prepare

HEADERS = {"Content-Type": "application/vnd.safetensors"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("uploads"), worker=True) as found:
        found.register()
        found.train(epochs=10)
        yield found


@pytest.fixture(scope="module")
def tensors(stack: Stack) -> dict[str, torch.Tensor]:
    return load(stack.client.get("/v1/models/m/versions/latest/weights").content)


def _upload(stack: Stack, content: bytes, model: str = "up") -> Any:
    if stack.client.get(f"/v1/models/{model}").status_code == 404:
        body = {"name": model, "dataset": "digits", "architecture": "small_cnn", "architecture_options": {"width": 8}}
        stack.client.post("/v1/models", json=body).raise_for_status()
    answer = stack.client.post(f"/v1/models/{model}/versions", content=content, headers=HEADERS).raise_for_status()
    assert answer.json()["state"] == "validating"
    return stack.wait(answer.headers["location"], lambda version: version["state"] != "validating")


def test_fitting_weights_become_active(stack: Stack, tensors: dict[str, torch.Tensor]) -> None:
    moved = {name: tensor + 1e-3 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    version = _upload(stack, save(moved))
    assert (version["state"], version["role"]) == ("active", "original")


def test_weights_that_do_not_fit_are_rejected_with_every_reason(stack: Stack, tensors: dict[str, torch.Tensor]) -> None:
    names = [name for name, tensor in tensors.items() if tensor.is_floating_point()]
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken[names[0]].view(-1)[0] = float("nan")
    broken[names[1]] = broken[names[1]][..., :1].clone()
    del broken[names[2]]
    broken["stranger"] = torch.zeros(2)
    version = _upload(stack, save(broken))
    assert version["state"] in ("rejected", "purged")
    reasons = " ".join(version["error"]["errors"])
    assert all(name in reasons for name in (names[0], names[1], names[2], "stranger"))
    assert stack.client.get(f"/v1/models/up/versions/{version['number']}/weights").status_code in (409, 410)


@pytest.mark.parametrize(
    ("method", "options", "role", "skip"),
    [("scrub", {"preset": "small", "epochs": 2, "msteps": 1}, "unlearned", 50), ("retrain", {}, "retrained", 70)],
)
def test_requests_in_sequence_only_grow_what_the_model_was_not_trained_on(
    stack: Stack, method: str, options: dict[str, Any], role: str, skip: int
) -> None:
    before = stack.client.get("/v1/models/m/versions/latest").json()
    request = stack.erase(stack.ids(12, skip=skip), method=method, method_options=options, models=["m"])
    done = stack.completed(request["id"])
    assert done["status"] == "completed", done
    after = stack.client.get("/v1/models/m/versions/latest").json()
    assert after["role"] == role
    assert after["parent"] == before["number"]
    assert after["training_samples"] == before["training_samples"] - 12
    assert stack.client.get(f"/v1/models/m/versions/{before['number']}/weights").status_code == 410


def test_requests_that_wait_share_a_job_and_are_reported_apart(stack: Stack) -> None:
    blocker = stack.erase(stack.ids(5, skip=100), method="finetune", method_options={"epochs": 12}, models=["m"])
    stack.wait(f"/v1/jobs/{blocker['jobs'][0]['id']}", lambda job: job["status"] != "queued")
    waiting = [
        stack.erase(stack.ids(20, skip=200 + 20 * i), method="finetune", method_options={"epochs": 1}) for i in range(2)
    ]
    job_ids = [{job["id"] for job in request["jobs"] if job["model"] == "m"} for request in waiting]
    assert job_ids[0] == job_ids[1]
    ends = [stack.completed(request["id"]) for request in waiting]
    assert [end["status"] for end in ends] == ["completed", "completed"]
    assert all(end["outcomes"]["erased"] == 20 for end in ends)
    job = next(job for job in ends[0]["jobs"] if job["model"] == "m")
    report = stack.client.get(f"/v1/evaluations/{job['evaluation_id']}").json()
    assert {row["request"] for row in report["per_request"]} == {request["id"] for request in waiting}


def test_a_training_started_later_reads_no_erased_sample(stack: Stack) -> None:
    dataset = stack.client.get("/v1/datasets/digits").json()
    stack.train("late", epochs=1)
    version = stack.client.get("/v1/models/late/versions/1").json()
    assert version["training_samples"] == dataset["splits"]["train"]
    assert dataset["splits"]["train"] < 1797 * 0.72, "the erased ones no longer count"


def test_a_method_that_never_keeps_utility_gives_way_to_the_next(stack: Stack) -> None:
    nothing_judged: dict[str, list[Any]] = {"privacy": [], "bias": [], "confusion": []}
    policy = {"max_accuracy_drop": 0.01, "ladder": ["finetune", "retrain"], "gate": nothing_judged}
    stack.train("lenient", epochs=6, policy=policy)
    options = {"lr": 1.0, "epochs": 1, "momentum": 0.99}
    request = stack.erase(stack.ids(10, skip=420), method="finetune", method_options=options, models=["lenient"])
    job = stack.client.get(f"/v1/jobs/{stack.completed(request['id'])['jobs'][0]['id']}").json()
    assert [rung["method"] for rung in job["rungs"]] == ["finetune", "retrain"]
    assert job["rungs"][0]["verdict"] == "failed"
    assert "no epoch kept selection accuracy" in job["rungs"][0]["sentence"]


def test_weights_that_never_keep_utility_on_the_last_rung_are_held_for_a_person(stack: Stack) -> None:
    stack.train("strict", epochs=6, policy={"max_accuracy_drop": 0.01, "ladder": ["finetune"]})
    options = {"lr": 1.0, "epochs": 1, "momentum": 0.99}
    request = stack.erase(stack.ids(10, skip=400), method="finetune", method_options=options, models=["strict"])
    done = stack.completed(request["id"])
    assert done["status"] == "on_hold"
    job = stack.client.get(f"/v1/jobs/{done['jobs'][0]['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("held", "utility_guard")
    assert stack.client.get("/v1/models/strict/versions/1").json()["state"] == "active"
    assert stack.client.post(f"/v1/jobs/{job['id']}/retry").status_code == 202


def test_no_order_names_a_place_of_an_erased_sample(stack: Stack, tmp_path: Path) -> None:
    """Training, selection, evaluation, references and retraining read by these places alone."""
    for step in range(5):
        request = stack.erase(
            stack.ids(6, skip=600 + 6 * step), method="finetune", method_options={"epochs": 1}, models=["m"]
        )
        assert stack.completed(request["id"])["status"] == "completed"
    stack.kill_worker()
    body = {"name": "last", "dataset": "digits", "architecture": "small_cnn", "recipe": {"epochs": 1}}
    stack.client.post("/v1/models", json=body).raise_for_status()
    asked = [
        stack.client.post("/v1/models/last/versions", json={"train": True}).raise_for_status().json()["job"]["id"],
        stack.client.post("/v1/models/m/prepare-audit").raise_for_status().json()["job"]["id"],
        stack.erase(stack.ids(6, skip=700), method="retrain", method_options={}, models=["m"])["jobs"][0]["id"],
    ]
    place = Place(settings=stack.settings, artifacts=ArtifactStore(stack.settings.resolved_artifacts_url), out=tmp_path)
    with stack.database.reading() as session:
        erased = set(session.scalars(select(Sample.position).where(Sample.state == SampleState.ERASED)))
        assert len(erased) >= 30
        for kind, job_id in zip(("train", "prepare", "erase"), asked, strict=True):
            order = prepare(session, session.get_one(Job, job_id), place).order
            assert order is not None
            assert order["kind"] == kind
            read = {name: _numbers(order[name]) for name in READ if name in order}
            assert sum(map(len, read.values())) > 100
            assert {name: len(erased & found) for name, found in read.items() if erased & found} == {}


READ = ("train", "selection", "audit", "test", "population", "pool", "earlier")


def _numbers(value: object) -> set[int]:
    if isinstance(value, dict):
        return _numbers(value.get("positions") or [])
    return set().union(*map(_numbers, value)) if isinstance(value, list) else {int(str(value))}
