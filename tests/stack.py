"""A running service for tests: the API behind a real socket and, where asked for, a real Celery worker process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from service.settings import Settings
from service.store import keys
from service.store.session import Database
from service.supervisor import WORKER
from tests import migrated
from tests.ports import free_port

Found = TypeVar("Found")
WAIT_SECONDS = 300.0  # nobody waits so long but for what has failed, or on a machine that is very busy


@dataclass
class Stack:
    """What a test talks to. ``client`` carries an admin key."""

    env: dict[str, str]
    settings: Settings
    database: Database
    client: httpx.Client
    base_url: str
    api: subprocess.Popen[bytes]
    log: Path
    worker: subprocess.Popen[bytes] | None = None
    keys: dict[str, str] = field(default_factory=dict)

    def start_worker(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            self.worker = subprocess.Popen(
                [sys.executable, *WORKER, "--loglevel", "warning"],
                env={**self.env, "UNLEARN_EXIT_WITH_PARENT": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        return self.worker

    def kill_worker(self) -> None:
        """End the worker the hard way."""
        if self.worker is not None:
            self.worker.send_signal(signal.SIGKILL)
            self.worker.wait()
            if self.worker.stdin is not None:
                self.worker.stdin.close()

    def key(self, *scopes: str) -> str:
        with self.database.writing() as session:
            return keys.create(session, name="test", scopes=list(scopes))[1]

    def client_with(self, *scopes: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.base_url, headers={"Authorization": f"Bearer {self.key(*scopes)}"}, timeout=30
        )

    def wait(self, path: str, done: Callable[[Mapping[str, Any]], bool], seconds: float = WAIT_SECONDS) -> Any:
        """Return the document at ``path`` once ``done`` holds of it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            document = self.client.get(path).raise_for_status().json()
            if done(document):
                return document
            time.sleep(0.1)
        raise TimeoutError(f"{path} did not get there in {seconds} s; it is {document}\n{self.log.read_text()[-4000:]}")

    def until(self, found: Callable[[], Found | None], seconds: float = WAIT_SECONDS) -> Found:
        """Return what ``found`` returns once it returns something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (value := found()) is not None:
                return value
            time.sleep(0.1)
        raise TimeoutError(f"nothing came in {seconds} s\n{self.log.read_text()[-4000:]}")

    def job(self, job_id: str) -> Any:
        return self.wait(f"/v1/jobs/{job_id}", lambda job: job["status"] not in ("queued", "running", "evaluating"))

    def register(self, name: str = "digits", **source: Any) -> Any:
        source = source or {"source": "sklearn:digits"}
        self.client.post("/v1/datasets", json={"name": name, **source}).raise_for_status()
        return self.wait(f"/v1/datasets/{name}", lambda dataset: dataset["state"] != "indexing")

    def train(self, name: str = "m", *, dataset: str = "digits", epochs: int = 8, **extra: Any) -> None:
        """Register a small network and have the worker train its first version."""
        body = {
            "name": name,
            "dataset": dataset,
            "architecture": "small_cnn",
            "architecture_options": {"width": 8},
            "recipe": {"epochs": epochs},
            # Nothing is demanded of the methods here, so that the one asked for is the one that is published.
            "policy": {"gate": {"privacy": [], "bias": [], "confusion": []}},
            **extra,
        }
        self.client.post("/v1/models", json=body).raise_for_status()
        answer = self.client.post(f"/v1/models/{name}/versions", json={"train": True}).raise_for_status().json()
        job = self.job(answer["job"]["id"])
        if job["status"] != "published":
            raise RuntimeError(f"training ended as {job}\n{self.log.read_text()[-4000:]}")

    def ids(self, count: int, *, dataset: str = "digits", split: str = "train", skip: int = 0) -> list[str]:
        items = self.client.get(
            f"/v1/datasets/{dataset}/samples", params={"split": split, "limit": skip + count}
        ).json()["items"]
        return [item["sample_id"] for item in items[skip:]]

    def erase(self, sample_ids: list[str], *, dataset: str = "digits", **body: Any) -> Any:
        answer = self.client.post(
            "/v1/deletion-requests", json={"dataset": dataset, "sample_ids": sample_ids, "method": "finetune", **body}
        )
        return answer.raise_for_status().json()

    def completed(self, request_id: str) -> Any:
        ended = ("completed", "failed", "on_hold", "cancelled")
        return self.wait(f"/v1/deletion-requests/{request_id}", lambda request: request["status"] in ended)


@contextmanager
def running(folder: Path, *, worker: bool = True, **settings: str) -> Iterator[Stack]:
    """Yield a stack in the folder; settings are lower-case names of `Settings` fields."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNLEARN_")}
    env |= {"UNLEARN_DATA_DIR": str(folder), "UNLEARN_LEASE_SECONDS": "3", "UNLEARN_SWEEP_SECONDS": "0.5"}
    env |= {f"UNLEARN_{name.upper()}": value for name, value in settings.items()}
    given: dict[str, Any] = {name[8:].lower(): value for name, value in env.items() if name.startswith("UNLEARN_")}
    found = Settings(**given)
    migrated.bring_to_head(found.resolved_database_url)
    port, log = free_port(), folder / "service.log"
    with log.open("ab") as file:
        api = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "api", "--port", str(port)], env=env, stdout=file, stderr=file
        )
    database = Database.open(found)
    base_url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=base_url, timeout=60) as client:
        stack = Stack(env=env, settings=found, database=database, client=client, base_url=base_url, api=api, log=log)
        try:
            client.headers["Authorization"] = f"Bearer {stack.key('admin')}"
            _until_ready(stack)
            if worker:
                stack.start_worker()
            yield stack
        finally:
            _end(stack)


def _until_ready(stack: Stack) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end and stack.api.poll() is None:
        try:
            if stack.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(stack.log.read_text()[-4000:])


def _end(stack: Stack) -> None:
    for process in (stack.worker, stack.api):
        if process is not None:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
    stack.database.dispose()
