"""Backed up, more erased, everything lost, restored, replayed: what was forgotten stays forgotten."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service import journaling
from service.erasure_journal import Journal, journal_key
from service.evidence.merkle import hash_leaf
from service.store import audit, audit_tree, checkpoints, keys, request_keys
from service.store.tables import AuditEntry, RequestKey, Restore, Sample
from tests.servers import fresh_database
from tests.stack import Stack, running

KEYS = {"master_key": os.urandom(32).hex(), "signing_key": os.urandom(32).hex()}


@dataclass
class Place:
    """Where the service lives, where its backup and journal are, and its databases before and after the loss."""

    root: Path
    first: str
    second: str

    def settings(self, url: str) -> dict[str, str]:
        return {"erasure_journal_url": str(self.root / "journal"), **KEYS, **({"database_url": url} if url else {})}


@dataclass
class Before:
    """What was so before the loss."""

    place: Place
    erased: list[str]
    later: list[str]
    lost_request: str
    shredded: str
    revoked: str
    retired_sha256: str
    log_size: int
    root: bytes
    admin: str


def _unlearn(stack: Stack, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *args]
    return subprocess.run(command, env=stack.env, text=True, capture_output=True, timeout=120)


@contextmanager
def _place(root: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(root, "", "")
        return
    server = request.getfixturevalue("postgres_url")
    with fresh_database(server) as first, fresh_database(server) as second:
        yield Place(root, first, second)


@pytest.fixture(scope="module", params=["sqlite"])
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    root = tmp_path_factory.mktemp("restore")
    with _place(root, request) as place:
        (root / "first").mkdir()
        with running(root / "first", worker=True, **place.settings(place.first)) as stack:
            yield_of = _live_and_lose(stack, place)
        shutil.rmtree(root / "first")
        yield yield_of


def _live_and_lose(stack: Stack, place: Place) -> Before:
    stack.register()
    stack.train(epochs=2)
    ids = stack.ids(30)
    early = stack.completed(stack.erase(ids[:10], method_options={"epochs": 1})["id"])
    assert early["status"] == "completed"
    with stack.database.writing() as session:
        revoked, text = keys.create(session, name="leaked", scopes=["models:read"])
    done = _unlearn(stack, "backup", str(place.root / "backup"))
    assert done.returncode == 0, done.stderr

    retired = stack.client.get("/v1/models/m/versions/2").json()["sha256"]
    late = stack.completed(stack.erase(ids[10:20], method_options={"epochs": 1})["id"])
    assert late["status"] == "completed"
    with stack.database.writing() as session:
        request_keys.shred(session, early["id"], reason="ordered")
        keys.revoke(session, revoked.id)
    stack.wait("/v1/models/m/versions/2", lambda version: version["state"] == "purged")
    stack.kill_worker()
    lost = stack.erase(ids[20:25])["id"]
    checkpoint = checkpoints.fresh(stack.database, stack.settings)
    journal = Journal(stack.settings.resolved_erasure_journal_url, journal_key(stack.settings.master_key_bytes))
    stack.until(lambda: True if _tokens(journal) == 20 else None)  # by itself
    assert journaling.write(stack.database, stack.settings) >= checkpoint.size
    return Before(
        place=place,
        erased=ids[:10],
        later=ids[10:20],
        lost_request=lost,
        shredded=early["id"],
        revoked=text,
        retired_sha256=retired,
        log_size=checkpoint.size,
        root=checkpoint.root,
        admin=stack.client.headers["Authorization"],
    )


def _tokens(journal: Journal) -> int:
    return sum(len(journal.read(number).tokens) for number in journal.numbers())


@pytest.fixture(scope="module")
def restored(before: Before) -> Iterator[Stack]:
    """A stack on what was restored, and replayed after it was seen to stay shut."""
    place, folder = before.place, before.place.root / "second"
    folder.mkdir()
    settings = place.settings(place.second)
    env = {**os.environ, "UNLEARN_DATA_DIR": str(folder), **{f"UNLEARN_{n.upper()}": v for n, v in settings.items()}}
    command = [sys.executable, "-m", "service.cli"]

    def unlearn(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *args], env=env, text=True, capture_output=True, timeout=120)

    done = unlearn("restore", str(place.root / "backup"))
    assert done.returncode == 0, done.stderr
    assert unlearn("restore", str(place.root / "backup")).returncode == 1, "only where there is nothing"
    assert unlearn("keys", "create", "x", "--scope", "admin").returncode == 1, "no entry before those to come back"
    with _shut(folder, settings, before.admin.removeprefix("Bearer ")) as stack:
        _assert_shut(stack, before)
        done = unlearn("replay")
        assert done.returncode == 0, done.stderr
        assert before.lost_request in done.stderr
        stack.until(lambda: True if stack.client.get("/readyz").status_code == 200 else None)
        yield stack


@contextmanager
def _shut(folder: Path, settings: dict[str, str], admin: str) -> Iterator[Stack]:
    """Start the service although it does not get ready, with the key from before: no other can be made yet."""
    patched = pytest.MonkeyPatch()
    patched.setattr(Stack, "key", lambda *_: admin)
    patched.setattr("tests.stack._until_ready", _until_alive)
    try:
        with running(folder, worker=True, **settings) as stack:
            yield stack
    finally:
        patched.undo()


def _until_alive(stack: Stack) -> None:
    def alive() -> bool | None:
        try:
            return stack.client.get("/healthz").status_code == 200 or None
        except httpx.TransportError:
            return None

    stack.until(alive)


def _assert_shut(stack: Stack, before: Before) -> None:
    ready = stack.client.get("/readyz")
    assert (ready.status_code, ready.json()["code"]) == (503, "restore_replay_pending")
    answer = stack.client.get("/v1/models/m/versions/2/weights")
    assert (answer.status_code, answer.json()["code"]) == (503, "restore_replay_pending")
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_was_erased_after_the_backup_is_erased_and_stays_recognised(before: Before, restored: Stack) -> None:
    names = [*before.erased, *before.later]
    answer = restored.client.post("/v1/datasets/digits/suppressions/check", json={"sample_ids": names})
    assert answer.json()["suppressed"] == [True] * len(names)
    with restored.database.reading() as session:
        left = session.scalar(select(func.count()).where(Sample.sample_id.in_(names)))
    assert left == 0


def test_a_version_retired_after_the_backup_is_not_served_nor_taken_again(before: Before, restored: Stack) -> None:
    assert restored.client.get("/v1/models/m/versions/2/weights").status_code == 410
    assert restored.client.get("/v1/models/m/versions/latest").status_code == 404
    restored.wait("/v1/models/m/versions/2", lambda version: version["state"] == "purged")
    held = [path.name for path in (restored.settings.data_dir / "artifacts").rglob("*") if path.is_file()]
    assert before.retired_sha256 not in held


def test_a_version_made_after_the_backup_keeps_its_number(restored: Stack) -> None:
    lost: Any = restored.client.get("/v1/models/m/versions/3").json()
    assert lost["state"] in ("rejected", "purged")
    answer = restored.client.get("/v1/models/m/versions/3/weights")
    assert (answer.status_code, answer.json()["code"]) == (410, "version_lost")


def test_what_was_shredded_or_revoked_stays_so(before: Before, restored: Stack) -> None:
    with restored.database.reading() as session:
        assert session.get(RequestKey, before.shredded) is None
    with httpx.Client(base_url=restored.base_url, headers={"Authorization": f"Bearer {before.revoked}"}) as client:
        assert client.get("/v1/models").status_code == 401


def test_the_log_goes_on_without_a_fork_and_says_that_it_was_restored(before: Before, restored: Stack) -> None:
    with restored.database.writing() as session:
        size = audit_tree.integrate(session)
        assert size > before.log_size
        assert audit_tree.root(session, before.log_size) == before.root, "as signed before the loss"
        for entry in session.scalars(select(AuditEntry)):
            assert hash_leaf(audit.hashed_bytes(entry)).hex() == entry.leaf_hash
        restore = session.scalars(select(Restore)).one()
    assert restore.found is not None
    assert restore.found["suppressed"] == len(before.later)
    entry = restored.client.get("/v1/audit/entries", params={"action": "service.restored"}).json()["items"][0]
    assert entry["seq"] >= before.log_size
    assert entry["payload"]["backup_log_size"] == restore.log_size < before.log_size
    assert entry["payload"]["lost_requests"] == 1
    assert checkpoints.fresh(restored.database, restored.settings).size > before.log_size


def test_the_model_is_trained_again_without_them_and_the_lost_request_can_be_sent_again(
    before: Before, restored: Stack
) -> None:
    answer = restored.client.post("/v1/models/m/versions", json={"train": True}).json()
    assert restored.job(answer["job"]["id"])["status"] == "published"
    latest = restored.client.get("/v1/models/m/versions/latest").json()
    assert latest["number"] == 4
    refused = restored.client.post(
        "/v1/deletion-requests", json={"dataset": "digits", "sample_ids": before.later[:1], "method": "finetune"}
    )
    assert refused.json()["outcomes"]["already_erased"] == 1
