"""An additive migration is applied while API and worker of the version before serve: no error, nothing lost."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, text

from service import migrate
from service.faults import Step
from service.store import audit
from service.store.tables import AuditHead, DeletionRequest
from tests import factories
from tests.later import FIRST, Later
from tests.stack import Stack, running

ADDITIVE = """
op.create_table("notes", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("text", sa.Text()))
op.add_column("deletion_requests", sa.Column("note", sa.Text(), nullable=True))
op.add_column("jobs", sa.Column("weight", sa.Integer(), nullable=False, server_default="0"))
online.create_index("ix_audit_entries_subject", "audit_entries", ["subject"])
"""


class Traffic:
    """Clients that go on until they are told to stop; whatever is not as it should be is kept."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._stop = stack, threading.Event()
        self.accepted, self.read, self.faults = list[str](), 0, list[str]()
        self._threads = [threading.Thread(target=self._loop, args=(turn,)) for turn in (self._ask, self._look)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Wait until so many more requests were accepted and read."""
        accepted, read = len(self.accepted) + count, self.read + count
        self._stack.until(lambda: self.faults or (len(self.accepted) >= accepted and self.read >= read) or None)

    def _loop(self, turn: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self._stack.base_url, headers=self._stack.client.headers, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    turn(client)
                except httpx.HTTPError as error:
                    self.faults.append(repr(error))

    def _ask(self, client: httpx.Client) -> None:
        body = {"dataset": "d", "sample_ids": [f"d-train-{len(self.accepted)}"], "method": "finetune"}
        self.accepted.append(client.post("/v1/deletion-requests", json=body).raise_for_status().json()["id"])

    def _look(self, client: httpx.Client) -> None:
        if self.accepted:
            client.get(f"/v1/deletion-requests/{self.accepted[-1]}").raise_for_status()
        client.get("/v1/audit/entries", params={"action": "request.received", "limit": 20}).raise_for_status()
        client.get("/readyz").raise_for_status()
        self.read += 1


def test_the_version_before_serves_while_and_after_a_migration_that_only_adds(
    tmp_path: Path, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points, versions = tmp_path / "points", tmp_path / "versions"
    for folder in (points, versions):
        folder.mkdir()
    with running(tmp_path, worker=True, database_url=postgres_database_url, fault_points=str(points)) as stack:
        factories.dataset(stack, train=5000)
        (points / Step.JOB_CLAIMED).write_text(json.dumps({"do": "hold"}))
        stack.client.post("/v1/datasets", json={"name": "digits", "source": "sklearn:digits"}).raise_for_status()
        stack.until(lambda: next(points.glob(f"{Step.JOB_CLAIMED}.at-*"), None))
        later = Later(versions, monkeypatch)
        later.write(FIRST, ADDITIVE)
        later.as_later_code()

        with Traffic(stack) as traffic:
            traffic.more(10)
            assert migrate.upgrade(postgres_database_url, expand_only=True) == FIRST
            traffic.more(10)

        later.as_todays_code()
        (points / f"{Step.JOB_CLAIMED}.go").touch()
        assert traffic.faults == []
        with stack.database.reading() as session:
            assert set(session.scalars(select(DeletionRequest.id))) == set(traffic.accepted)
            size = session.scalar(select(AuditHead.size)) or 0  # first: the job that goes on may add entries meanwhile
            logged = audit.find(session, limit=None)
            assert [entry.seq for entry in logged] == list(range(len(logged)))
            assert len(logged) >= size > 0
            valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_audit_entries_subject'::regclass")
            assert session.scalar(valid) is True
            assert session.scalar(select(func.count()).select_from(text("notes"))) == 0
        indexed = stack.wait("/v1/datasets/digits", lambda dataset: dataset["state"] != "indexing")
        assert indexed["state"] == "ready", "the job that was claimed before the migration is finished after it"
