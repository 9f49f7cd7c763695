"""After a whole request on a real stack no file, row, message, log line or answer holds an erased id or its plain hash.

The one place that still does is the source file: it is the controller's, and the service never edits it.
"""

import base64
import hashlib
import json
import re
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import redis
from sklearn.datasets import load_digits
from sqlalchemy import URL, func, make_url, select

from service.store.tables import FileTrace, Version
from tests.stack import Stack, running

COUNT = 240
TRAIN = range(200)


@dataclass
class Case:
    """A stack, the ids it was asked to erase, their source, and the broker's URL where it is no folder."""

    stack: Stack
    erased: list[str]
    source: Path
    broker: str
    request_id: str = ""


def _needles(sample_id: str) -> dict[str, bytes]:
    """Everything that stands for an id without a key: the text in three encodings, and its plain digests in four."""
    raw = sample_id.encode()
    found = {"text": raw, "utf-16": sample_id.encode("utf-16-le"), "base64": base64.b64encode(raw).rstrip(b"=")[:-1]}
    for name in ("sha256", "sha1", "md5", "sha512", "blake2b"):
        digest = hashlib.new(name, raw).digest()
        found |= {
            f"{name} hex": digest.hex().encode(),
            f"{name} HEX": digest.hex().upper().encode(),
            f"{name} raw": digest,
            f"{name} base64": base64.b64encode(digest).rstrip(b"="),
        }
    return found


def _found_in(content: bytes, ids: list[str]) -> list[str]:
    return [
        f"{sample_id}: {kind}" for sample_id in ids for kind, needle in _needles(sample_id).items() if needle in content
    ]


def _source(path: Path) -> list[str]:
    digits = load_digits()
    ids = [f"person-{secrets.token_hex(12)}" for _ in range(COUNT)]
    np.savez(
        path,
        sample_id=np.array(ids),
        image=(digits.images[:COUNT] * 16).clip(0, 255).astype(np.uint8),
        label=digits.target[:COUNT].astype(np.int64),
        split=np.array(["train" if i in TRAIN else "test" for i in range(COUNT)]),
    )
    return ids


@pytest.fixture(scope="module", params=["sqlite and files", "postgresql and valkey"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    servers = {}
    if request.param.startswith("postgresql"):
        servers = {
            "database_url": request.getfixturevalue("postgres_database_url"),
            "broker_url": request.getfixturevalue("valkey_url"),
        }
    source = tmp_path_factory.mktemp("source") / "people.npz"
    ids = _source(source)
    folder = tmp_path_factory.mktemp("nothing")
    with running(folder, allowed_roots=str(source.parent), scrub_seconds="0", log_level="debug", **servers) as stack:
        stack.register("people", source="npz", path=str(source))
        stack.train(dataset="people", epochs=3)
        listed = {item["sample_id"]: item["split"] for split in ("train", "test") for item in _page(stack, split)}
        train = [sample_id for sample_id in ids if listed.get(sample_id) == "train"][:12]
        held_out = [sample_id for sample_id in ids if listed.get(sample_id) == "test"][:6]
        found = Case(stack=stack, erased=train + held_out, source=source, broker=servers.get("broker_url", ""))
        _whole_life(found)
        yield found


def _page(stack: Stack, split: str) -> Any:
    params: dict[str, str | int] = {"split": split, "limit": 1000}
    return stack.client.get("/v1/datasets/people/samples", params=params).raise_for_status().json()["items"]


def _whole_life(case: Case) -> None:
    """Everything a caller may do that names ids, before, while and after they are erased."""
    stack, ids = case.stack, case.erased
    assert _found_in(_rows(case), ids[:1]), "before the erasure the ids are found: this test can fail"
    _calls_that_fail(stack, ids)
    body = {
        "dataset": "people",
        "sample_ids": [*ids, "nobody-at-all"],
        "method": "finetune",
        "method_options": {"epochs": 1},
        "unresolved": "report",
    }
    headers = {"Idempotency-Key": "ticket-1"}
    stack.client.post("/v1/deletion-requests/preview", json=body).raise_for_status()
    first = stack.client.post("/v1/deletion-requests", json=body, headers=headers).raise_for_status().json()
    case.request_id = first["id"]
    _ask_about(case)
    assert stack.completed(case.request_id)["status"] == "completed"
    again = stack.client.post("/v1/deletion-requests", json=body, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    second = stack.client.post("/v1/deletion-requests", json={**body, "method": "retrain", "method_options": {}})
    assert second.json()["outcomes"]["already_erased"] == len(ids)
    stack.client.post("/v1/deletion-requests/preview", json=body).raise_for_status()
    _ask_about(case)
    _calls_that_fail(stack, ids)
    stack.client.post("/v1/datasets/people/reindex").raise_for_status()
    again_indexed = stack.wait("/v1/datasets/people", lambda dataset: dataset["state"] != "indexing")
    assert again_indexed["reindexed"]["suppressed_skipped"] == len(ids)
    stack.until(lambda: _swept(stack))


def _ask_about(case: Case) -> None:
    stack, ids = case.stack, case.erased
    receipts = stack.client.post(f"/v1/deletion-requests/{case.request_id}/receipt", json={"sample_ids": ids})
    assert all(item["covered"] for item in receipts.raise_for_status().json()["items"])
    for item in receipts.json()["items"][:2]:
        path = f"/v1/deletion-requests/{case.request_id}/receipt/check"
        stack.client.post(path, json={"receipt": item["receipt"]}).raise_for_status()
    stack.client.post("/v1/datasets/people/suppressions/check", json={"sample_ids": ids}).raise_for_status()


def _calls_that_fail(stack: Stack, ids: list[str]) -> None:
    """The answers name what the caller sent, to the caller; nothing else may keep it."""
    for body in (
        {"dataset": "nothing", "sample_ids": ids},
        {"dataset": "people", "sample_ids": [ids[0], ids[0]]},
        {"dataset": "people", "sample_ids": [*ids, "nobody"], "method": "no such method"},
        {"dataset": "people", "sample_ids": ids, "purpose": ids[0]},
        {"dataset": "people", "sample_ids": ids, "models": [ids[0]]},
        {"dataset": ids[0], "sample_ids": ids, ids[1]: ids},
        {"dataset": "people", "sample_ids": [f"{ids[0]}\x00"]},
    ):
        for path in ("/v1/deletion-requests", "/v1/deletion-requests/preview"):
            assert stack.client.post(path, json=body).status_code in (200, 404, 422)
    broken = stack.client.post(
        "/v1/deletion-requests",
        content=b'{"dataset": "people", "sample_ids": ["' + ids[0].encode(),
        headers={"Content-Type": "application/json"},
    )
    assert broken.status_code == 400
    paths = ("/v1/deletion-requests/req_nobody/receipt", "/v1/datasets/nothing/suppressions/check")
    for path in paths:
        assert stack.client.post(path, json={"sample_ids": ids}).status_code == 404
        assert stack.client.post(path, json={"sample_ids": ids, "more": ids[0]}).status_code == 422
    with httpx.Client(base_url=stack.base_url) as stranger:
        assert stranger.post("/v1/deletion-requests", json={"dataset": "people", "sample_ids": ids}).status_code == 401


def _swept(stack: Stack) -> bool | None:
    """Say that the sweeps are over: the tainted version is purged, and the files are scrubbed."""
    with stack.database.reading() as session:
        traces = session.scalar(select(func.count()).select_from(FileTrace))
        waiting = session.scalar(select(func.count()).select_from(Version).where(Version.state == "retired"))
    return True if traces == 0 and waiting == 0 and not any((stack.settings.data_dir / "tmp").glob("job_*")) else None


def _files(case: Case) -> Iterator[Path]:
    return (path for path in case.stack.settings.data_dir.rglob("*") if path.is_file())


def _rows(case: Case) -> bytes:
    """Every row of every table, as text; bytes as hexadecimal digits."""
    url = make_url(case.stack.settings.resolved_database_url)
    if url.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(url.database))) as connection:
            return "\n".join(connection.iterdump()).encode()
    return _postgres_rows(url.set(drivername="postgresql"))


def _postgres_rows(url: URL) -> bytes:
    dumped = []
    with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) > 15
        for (table,) in tables:
            dumped += connection.execute(f'SELECT t::text FROM "{table}" AS t').fetchall()
    return "\n".join(row[0] for row in dumped).encode()


def test_no_file_under_the_data_folder_holds_an_erased_id(case: Case) -> None:
    names = {path.name for path in _files(case)}
    assert "service.log" in names
    if not case.broker:
        assert {"unlearn.db", "unlearn.db-wal", "unlearn.db-shm"} <= names
    leaks = {str(path): found for path in _files(case) if (found := _found_in(path.read_bytes(), case.erased))}
    assert leaks == {}
    assert not [path for path in _files(case) if _found_in(str(path).encode(), case.erased)]


def test_no_row_of_any_table_holds_an_erased_id(case: Case) -> None:
    rows = _rows(case)
    assert case.request_id.encode() in rows
    assert _found_in(rows, case.erased) == []


def test_no_message_of_the_broker_holds_an_erased_id(case: Case) -> None:
    assert _found_in(_messages(case), case.erased) == []


def _messages(case: Case) -> bytes:
    if not case.broker:
        folder = case.stack.settings.data_dir / "broker"
        assert folder.is_dir()
        return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    with closing(redis.Redis.from_url(case.broker)) as client:
        return b"".join(bytes(key) + bytes(client.dump(key) or b"") for key in client.scan_iter())


def test_no_answer_given_afterwards_holds_an_erased_id(case: Case) -> None:
    answers = _every_get(case)
    asked = {re.sub(r"[^/a-z0-9.-]", "", path) for path, _ in answers}
    assert len(asked) > 15
    assert {path: found for path, content in answers if (found := _found_in(content, case.erased))} == {}


def _every_get(case: Case) -> list[tuple[str, bytes]]:
    """Ask every GET route of the description that can be filled in, and every page of those that have pages."""
    stack = case.stack
    description = stack.client.get("/openapi.json").json()
    request = stack.client.get(f"/v1/deletion-requests/{case.request_id}").json()
    known = {
        "request_id": [each["id"] for each in stack.client.get("/v1/deletion-requests").json()["items"]],
        "job_id": [job["id"] for job in request["jobs"]],
        "evaluation_id": [job["evaluation_id"] for job in request["jobs"]],
        "number": ["1", "2", "latest"],
        "name": ["people", "m"],
        "seq": ["0", "1"],
    }
    answers = []
    for path, operations in description["paths"].items():
        if "get" in operations and "/plots/" not in path:
            for filled in _filled(path, known):
                answers += _pages(stack, filled)
    return answers


def _filled(path: str, known: dict[str, list[str]]) -> list[str]:
    missing = re.search(r"\{(\w+)\}", path)
    if missing is None:
        return [path]
    values = known.get(missing[1], [])
    return [full for value in values for full in _filled(path.replace(missing[0], value, 1), known)]


def _pages(stack: Stack, path: str) -> list[tuple[str, bytes]]:
    answers, cursor = [], None
    while True:
        answer = stack.client.get(path, params={"cursor": cursor} if cursor else {})
        heads = json.dumps(dict(answer.headers)).encode()
        answers.append((path, heads + answer.content))
        try:
            cursor = answer.json().get("next_cursor")
        except (ValueError, AttributeError):
            cursor = None
        if not cursor:
            return answers


def test_only_the_source_itself_still_has_the_ids(case: Case) -> None:
    with np.load(case.source) as source:
        assert set(case.erased) <= {str(sample_id) for sample_id in source["sample_id"]}
    assert case.stack.settings.data_dir not in case.source.parents
