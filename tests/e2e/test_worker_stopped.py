"""A worker or a whole service asked to end (SIGTERM) hands its job back unspent, and the job is then done once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.settings import Settings
from service.store import jobs
from service.store.session import Database
from tests.ports import free_port
from tests.stack import Stack, running

LONG: dict[str, Any] = {"method": "finetune", "method_options": {"epochs": 25, "seed": 3, "lr": 0.05, "batch_size": 16}}
END_SECONDS = 60.0


@pytest.fixture(params=["sqlite and files", "postgresql and valkey"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param.startswith("postgresql"):
        settings = {
            "database_url": request.getfixturevalue("postgres_database_url"),
            "broker_url": request.getfixturevalue("valkey_url"),
        }
    # One attempt is all there is: a stop that counted would poison the job.
    with running(tmp_path, worker=True, max_attempts="1", **settings) as found:
        yield found


def _in_mid_attempt(stack: Stack, job_id: str) -> Any:
    return stack.wait(f"/v1/jobs/{job_id}", lambda job: job["progress"]["phase"] and job["progress"]["done"] > 1)


def test_a_stopped_worker_hands_its_job_back_unspent_and_another_does_it_once(stack: Stack) -> None:
    stack.register()
    stack.train(epochs=3)
    request = stack.erase(stack.ids(30), **LONG)
    job_id = request["jobs"][0]["id"]
    for _ in range(2):
        _in_mid_attempt(stack, job_id)
        worker = stack.worker
        assert worker is not None
        children = psutil.Process(worker.pid).children(recursive=True)
        assert children, "the attempt runs in a child process"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(END_SECONDS) == 0
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive, "the child outlived its worker"
        job = stack.client.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], job["attempts"], job["progress"]["phase"]) == ("queued", 0, None)
        if worker.stdin is not None:
            worker.stdin.close()
        stack.start_worker()

    assert stack.completed(request["id"])["status"] == "completed"
    assert stack.client.get(f"/v1/jobs/{job_id}").json()["attempts"] == 1
    versions = stack.client.get("/v1/models/m/versions").json()["items"]
    assert [version["role"] for version in versions] == ["original", "unlearned"]
    entries = stack.client.get("/v1/audit/entries", params={"job_id": job_id, "limit": 500}).json()["items"]
    actions = [entry["action"] for entry in entries]
    assert actions.count("job.published") == 1
    assert actions.count("job.claimed") == 3
    assert actions.count("job.handed_back") == 2
    assert "job.poisoned" not in actions
    assert actions.count("job.evaluating") == 1, "an attempt runs, then is evaluated"
    assert actions.index("job.evaluating") < actions.index("evaluation.recorded") < actions.index("job.published")
    events = stack.client.get(f"/v1/deletion-requests/{request['id']}/events").text
    assert '"status":"evaluating"' in events


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Stack]]:
    """`unlearn serve` itself, which starts its own worker."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    settings = Settings(data_dir=tmp_path)
    port, log = free_port(), tmp_path / "service.log"
    cli = [sys.executable, "-m", "service.cli"]
    place = ["--data-dir", str(tmp_path)]
    made = [*cli, "keys", "create", "test", "--scope", "admin", *place]
    key = subprocess.run(made, env=env, check=True, capture_output=True, text=True).stdout.strip()
    with log.open("ab") as file:
        process = subprocess.Popen([*cli, "serve", "--port", str(port), *place], env=env, stdout=file, stderr=file)
    database, base_url = Database.open(settings), f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield (
            process,
            Stack(
                env=env, settings=settings, database=database, client=client, base_url=base_url, api=process, log=log
            ),
        )
    process.kill()
    process.wait()
    database.dispose()


def _ready(stack: Stack) -> None:
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        try:
            if stack.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError(stack.log.read_text()[-4000:])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_asked_to_end_ends_its_worker_too_and_spends_no_attempt(
    served: tuple[subprocess.Popen[bytes], Stack], number: signal.Signals
) -> None:
    process, stack = served
    _ready(stack)
    stack.register()
    stack.train(epochs=3)
    job_id = stack.erase(stack.ids(30), **LONG)["jobs"][0]["id"]
    _in_mid_attempt(stack, job_id)
    descendants = psutil.Process(process.pid).children(recursive=True)
    assert len(descendants) >= 2, "a worker and its child"
    process.send_signal(number)
    assert process.wait(END_SECONDS) == 0
    _, alive = psutil.wait_procs(descendants, timeout=10)
    assert not alive, "the service ended before its worker"
    with stack.database.reading() as session:
        job = jobs.get(session, job_id)
        assert (job.status, job.attempts) == ("queued", 0)


def test_a_service_asked_to_end_while_it_starts_leaves_nobody_behind(
    served: tuple[subprocess.Popen[bytes], Stack],
) -> None:
    process, _ = served
    end = time.monotonic() + END_SECONDS
    descendants: list[psutil.Process] = []
    while not descendants and time.monotonic() < end:
        descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.wait(END_SECONDS)
    _, alive = psutil.wait_procs(descendants, timeout=20)
    assert not alive
