"""An API asked to end (SIGTERM) says so, finishes what it has begun or refuses it whole, and ends in a bounded time."""

import hashlib
import http.client
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import func, select

from service.lifecycle import VersionState
from service.store import audit, models, versions
from service.store.tables import DeletionRequest, DutyLease, Version
from service.store.types import now
from tests import factories
from tests.stack import Stack, running

END_SECONDS = 60.0
# More than the sockets between client and server hold.
LARGE = 24 * 2**20
WEIGHTS = "/v1/models/m/versions/1/weights"


def _large_version(stack: Stack) -> str:
    """Add a version of so many bytes that its download blocks on a client that does not read; return its digest."""
    factories.dataset(stack)
    factories.model(stack)
    path = stack.settings.data_dir / "large"
    path.write_bytes(b"0123456789abcdef" * (LARGE // 16))
    digest = factories.stack_artifacts(stack, path)
    with stack.database.writing() as session:
        model = models.by_name(session, "m")
        versions.create(
            session, model, state=VersionState.ACTIVE, role="original", origin="trained", sha256=digest,
            size_bytes=LARGE,
        )  # fmt: skip
    return digest


class Connection:
    """One connection, driven by hand."""

    def __init__(self, stack: Stack) -> None:
        self._raw = http.client.HTTPConnection(urlsplit(stack.base_url).netloc, timeout=END_SECONDS)
        self._key = str(stack.client.headers["Authorization"])

    def download(self) -> http.client.HTTPResponse:
        """Ask for the large version and read its first bytes alone."""
        self._raw.request("GET", WEIGHTS, headers={"Authorization": self._key})
        answer = self._raw.getresponse()
        assert answer.status == 200
        return answer

    def begin_upload(self, size: int) -> None:
        self._raw.putrequest("POST", "/v1/models/m/versions")
        for name, value in (
            ("Authorization", self._key),
            ("Content-Type", "application/vnd.safetensors"),
            ("Content-Length", str(size)),
        ):
            self._raw.putheader(name, value)
        self._raw.endheaders()

    def send(self, part: bytes) -> None:
        self._raw.send(part)

    def answer(self) -> http.client.HTTPResponse:
        return self._raw.getresponse()

    def close(self) -> None:
        self._raw.close()


def _scratch(stack: Stack) -> list[Path]:
    return list((stack.settings.data_dir / "tmp").glob("*"))


def _until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.02)
    raise TimeoutError


def _draining(stack: Stack) -> httpx.Response | None:
    answer = httpx.get(f"{stack.base_url}/readyz", timeout=END_SECONDS)
    return answer if answer.status_code == 503 else None


def test_what_is_in_flight_when_an_api_is_asked_to_end_is_finished(tmp_path: Path) -> None:
    with running(tmp_path, worker=False, drain_seconds="3") as stack:
        digest = _large_version(stack)
        request = stack.erase(["d-train-0"], dataset="d")
        weights = factories.safetensors(w=[float(i) for i in range(4096)])
        upload, download = Connection(stack), Connection(stack)
        upload.begin_upload(len(weights))
        upload.send(weights[: len(weights) // 2])
        _until(lambda: _scratch(stack))
        slow = download.download()
        key = {"Authorization": stack.client.headers["Authorization"]}
        with httpx.stream(
            "GET", f"{stack.base_url}/v1/deletion-requests/{request['id']}/events", headers=key, timeout=END_SECONDS
        ) as events:
            lines = events.iter_lines()
            assert next(lines).startswith("id: ")

            stack.api.send_signal(signal.SIGTERM)

            said = _until(lambda: _draining(stack))
            assert said.json()["status"] == "draining"
            assert said.headers["connection"] == "close"
            assert "retry: 1000" in list(lines), "the stream ends, and says when to come again"
        _until(lambda: _refused(stack))
        upload.send(weights[len(weights) // 2 :])
        answered = upload.answer()
        assert answered.status == 201, answered.read()
        whole = hashlib.sha256()
        while part := slow.read(2**20):
            whole.update(part)
        assert whole.hexdigest() == digest
        assert stack.api.wait(END_SECONDS) == 0
        assert _scratch(stack) == []
        with stack.database.reading() as session:
            uploaded = session.scalar(select(Version).where(Version.origin == "uploaded"))
            assert uploaded is not None
            assert uploaded.sha256 == hashlib.sha256(weights).hexdigest()
            assert session.scalar(select(func.count()).where(DutyLease.until > now())) == 0, "another may take over"
        upload.close()
        download.close()


def _refused(stack: Stack) -> bool:
    try:
        httpx.get(f"{stack.base_url}/healthz", timeout=END_SECONDS)
    except httpx.ConnectError:
        return True
    return False


def test_an_api_ends_in_time_though_one_client_never_reads_and_another_never_sends(tmp_path: Path) -> None:
    with running(tmp_path, worker=False, drain_seconds="0", shutdown_seconds="1") as stack:
        _large_version(stack)
        weights = factories.safetensors(w=[1.0] * 4096)
        upload, download = Connection(stack), Connection(stack)
        download.download()
        upload.begin_upload(len(weights))
        upload.send(weights[:-1])
        _until(lambda: _scratch(stack))

        stack.api.send_signal(signal.SIGTERM)

        assert stack.api.wait(END_SECONDS) == 0
        assert _scratch(stack) == [], "nothing half done"
        with stack.database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Version)) == 1
        refused = upload.answer()
        assert (refused.status, json.loads(refused.read())["code"]) == (503, "shutting_down")
        upload.close()
        download.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_api_asked_twice_ends_without_the_drain(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, worker=False, drain_seconds="300") as stack:
        stack.api.send_signal(number)
        assert _until(lambda: _draining(stack))
        stack.api.send_signal(number)
        assert stack.api.wait(END_SECONDS) == 0


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_request_that_was_answered_is_kept_however_near_the_end(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    settings = {"drain_seconds": "0.3", "rate_limit_deletion_requests": ""}
    if kind == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path, worker=False, **settings) as stack:
        factories.dataset(stack, train=2000)
        answered: list[str] = []
        enough = threading.Event()

        def ask(first: int) -> None:
            with httpx.Client(base_url=stack.base_url, headers=stack.client.headers, timeout=END_SECONDS) as client:
                for i in range(first, 2000, 4):
                    body = {"dataset": "d", "sample_ids": [f"d-train-{i}"], "method": "finetune"}
                    try:
                        answer = client.post("/v1/deletion-requests", json=body)
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 202, answer.text
                    answered.append(answer.json()["id"])
                    if len(answered) > 40:
                        enough.set()

        clients = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for client in clients:
            client.start()
        assert enough.wait(END_SECONDS)
        stack.api.send_signal(signal.SIGTERM)
        assert stack.api.wait(END_SECONDS) == 0
        for client in clients:
            client.join(END_SECONDS)
        assert len(answered) < 2000, "the end came while they asked"
        with stack.database.reading() as session:
            kept = set(session.scalars(select(DeletionRequest.id)))
            assert set(answered) <= kept
            logged = audit.find(session, limit=None, actions=["request.received"])
            assert len(logged) == len(kept)
