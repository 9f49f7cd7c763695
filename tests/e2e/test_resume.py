"""A training whose worker is killed or stopped goes on from its checkpoint, and ends with an unbroken one's weights."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.faults import Step
from service.store.tables import TrainingCheckpoint
from tests.stack import Stack, running

EPOCHS = 5
END_SECONDS = 120.0


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def stack(faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    place = tmp_path_factory.mktemp("resume")
    # One attempt is all there is beside a killed one: a stop that counted would poison the job.
    with running(place, worker=True, fault_points=str(faults), checkpoint_seconds="0", max_attempts="2") as found:
        found.register()
        yield found


def _model(stack: Stack, name: str, *, seed: int) -> None:
    body = {
        "name": name,
        "dataset": "digits",
        "architecture": "small_cnn",
        "architecture_options": {"width": 8},
        "recipe": {"epochs": EPOCHS, "batch_size": 64, "lr": 0.05, "seed": seed},
        "policy": {"gate": {"privacy": [], "bias": [], "confusion": []}, "reexecution_share": 0},
    }
    stack.client.post("/v1/models", json=body).raise_for_status()


def _train(stack: Stack, name: str) -> str:
    answer = stack.client.post(f"/v1/models/{name}/versions", json={"train": True}).raise_for_status().json()
    return str(answer["job"]["id"])


def _published(stack: Stack, job_id: str, name: str, number: int = 1) -> str:
    job = stack.job(job_id)
    assert job["status"] == "published", job
    return str(stack.client.get(f"/v1/models/{name}/versions/{number}").json()["sha256"])


def _hold(faults: Path, step: Step) -> None:
    (faults / f"{step}.go").unlink(missing_ok=True)
    (faults / step).write_text(json.dumps({"do": "hold"}))


def _held(stack: Stack, faults: Path, step: Step) -> None:
    """Return once a process stands still at the step."""
    stack.until(lambda: next(iter(faults.glob(f"{step}.at-*")), None))


def _let_go(faults: Path, step: Step) -> None:
    for file in faults.glob(f"{step}.at-*"):
        file.unlink()
    (faults / f"{step}.go").touch()


def _kill_once_kept(stack: Stack, faults: Path, job_id: str) -> int:
    """Kill worker and child when the first checkpoint is named; return how many epochs that holds."""
    _held(stack, faults, Step.CHECKPOINT_STORED)
    done = stack.client.get(f"/v1/jobs/{job_id}").json()["checkpoint"]["epochs"]
    assert stack.worker is not None
    children = psutil.Process(stack.worker.pid).children(recursive=True)
    stack.kill_worker()
    psutil.wait_procs(children, timeout=20)
    _let_go(faults, Step.CHECKPOINT_STORED)
    return int(done)


def _actions(stack: Stack, job_id: str) -> list[str]:
    entries = stack.client.get("/v1/audit/entries", params={"job_id": job_id, "limit": 500}).json()["items"]
    return [entry["action"] for entry in entries]


def _nothing_is_left(stack: Stack) -> None:
    """Wait until no checkpoint is named."""

    def none() -> bool | None:
        with stack.database.reading() as session:
            return True if session.query(TrainingCheckpoint).count() == 0 else None

    stack.until(none)


def _with_worker(stack: Stack, **settings: str) -> subprocess.Popen[bytes]:
    """Return the worker, started if there is none."""
    if stack.worker is not None and stack.worker.poll() is None and not settings:
        return stack.worker
    if stack.worker is not None and stack.worker.poll() is None:
        stack.kill_worker()
    stack.env.update({f"UNLEARN_{name.upper()}": value for name, value in settings.items()})
    return stack.start_worker()


def test_a_killed_or_stopped_training_ends_with_the_weights_of_an_unbroken_one(stack: Stack, faults: Path) -> None:
    for name in ("unbroken", "killed", "stopped"):
        _model(stack, name, seed=7)
    _hold(faults, Step.CHECKPOINT_STORED)
    killed = _train(stack, "killed")
    done = _kill_once_kept(stack, faults, killed)
    worker = _with_worker(stack)
    weights = _published(stack, killed, "killed")
    job = stack.client.get(f"/v1/jobs/{killed}").json()
    assert (job["resumed_from"], job["attempts"]) == ([done], 2)
    assert _actions(stack, killed).count("job.resumed") == 1

    _hold(faults, Step.IN_EPOCH)
    stopped = _train(stack, "stopped")
    _held(stack, faults, Step.IN_EPOCH)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.send_signal(signal.SIGTERM)
    stack.until(lambda: True if "child.asked_to_stop" in stack.log.read_text() else None)
    _let_go(faults, Step.IN_EPOCH)
    assert worker.wait(END_SECONDS) == 0
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "the child outlived its worker"
    job = stack.client.get(f"/v1/jobs/{stopped}").json()
    assert (job["status"], job["attempts"]) == ("queued", 0)
    kept = job["checkpoint"]["epochs"]
    assert 1 <= kept < EPOCHS, "it was kept at the end of the epoch in which it was asked to stop"
    if worker.stdin is not None:
        worker.stdin.close()
    _with_worker(stack)
    assert _published(stack, stopped, "stopped") == weights
    job = stack.client.get(f"/v1/jobs/{stopped}").json()
    assert (job["resumed_from"], job["attempts"], job["checkpoint"]) == ([kept], 1, None)

    assert _published(stack, _train(stack, "unbroken"), "unbroken") == weights
    for job_id in (killed, stopped):
        assert _actions(stack, job_id).count("job.published") == 1
    _nothing_is_left(stack)


def test_a_killed_retraining_ends_with_the_weights_of_an_unbroken_one(stack: Stack, faults: Path) -> None:
    _with_worker(stack)
    # Two originals, since equal ones would be retired together; retraining starts from neither.
    for name, seed in (("first", 1), ("second", 2)):
        _model(stack, name, seed=seed)
        _published(stack, _train(stack, name), name)
    _hold(faults, Step.CHECKPOINT_STORED)
    request = stack.erase(stack.ids(20), method="retrain", method_options={"seed": 3}, models=["first", "second"])
    jobs: dict[str, str] = {job["model"]: job["id"] for job in request["jobs"]}
    _held(stack, faults, Step.CHECKPOINT_STORED)
    at = next(name for name in jobs if stack.client.get(f"/v1/jobs/{jobs[name]}").json()["checkpoint"] is not None)
    done = _kill_once_kept(stack, faults, jobs[at])
    _with_worker(stack)
    weights: dict[str, Any] = {name: _published(stack, job_id, name, 2) for name, job_id in jobs.items()}
    assert weights["first"] == weights["second"]
    job = stack.client.get(f"/v1/jobs/{jobs[at]}").json()
    assert job["resumed_from"] == [done]
    report = stack.client.get(f"/v1/evaluations/{job['evaluation_id']}").json()
    assert report["resumed"] == {"times": 1, "from_epochs": [done]}
    assert stack.completed(request["id"])["status"] == "completed"
    _nothing_is_left(stack)


def test_a_training_that_does_not_come_to_its_epochs_end_is_ended_and_handed_back(stack: Stack, faults: Path) -> None:
    _model(stack, "still", seed=7)
    job_id = ""
    for drain_seconds, signals in ((1, 1), (600, 9)):  # out of patience; asked again and again
        _hold(faults, Step.IN_EPOCH)
        worker = _with_worker(stack, worker_drain_seconds=str(drain_seconds))
        job_id = job_id or _train(stack, "still")
        _held(stack, faults, Step.IN_EPOCH)
        children = psutil.Process(worker.pid).children(recursive=True)
        _ask_to_end(worker, signals)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "the child outlived its worker"
        if worker.stdin is not None:
            worker.stdin.close()
        _let_go(faults, Step.IN_EPOCH)
        job = stack.client.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], job["attempts"], job["checkpoint"]) == ("queued", 0, None)


def _ask_to_end(worker: subprocess.Popen[bytes], signals: int) -> None:
    end = time.monotonic() + END_SECONDS
    while worker.poll() is None and time.monotonic() < end:
        if signals:
            worker.send_signal(signal.SIGTERM)
            signals -= 1
        time.sleep(0.5)
    assert worker.poll() is not None, "it did not end"
