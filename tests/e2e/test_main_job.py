"""The main job through HTTP, SQL, a broker and a real worker: request, unlearn, measure, publish, retire."""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import rfc8785

from tests.all_files import contents
from tests.stack import Stack, running


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("main-job")) as found:
        found.register()
        found.train(epochs=12)
        yield found


@pytest.fixture(scope="module")
def named(stack: Stack) -> list[str]:
    return stack.ids(40, skip=100)


@pytest.fixture(scope="module")
def parent_weights(stack: Stack) -> bytes:
    return stack.client.get("/v1/models/m/versions/1/weights").content


@pytest.fixture(scope="module")
def done(stack: Stack, named: list[str], parent_weights: bytes) -> Any:
    assert parent_weights
    request = stack.erase(named, method="scrub_r", method_options={"seed": 1})
    assert request["outcomes"]["pending"] == len(named)
    return stack.completed(request["id"])


def test_the_request_completes_and_counts_what_was_erased(done: Any, named: list[str]) -> None:
    assert done["status"] == "completed"
    assert done["outcomes"]["erased"] == len(named)
    assert done["outcomes"]["pending"] == 0
    assert done["jobs"][0]["version"] == 2


def test_the_events_tell_the_story_and_end(stack: Stack, done: Any) -> None:
    names = []
    with stack.client.stream("GET", f"/v1/deletion-requests/{done['id']}/events") as stream:
        names = [line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")]
    assert {"state", "attempt", "evaluation", "published"} <= set(names)


def test_the_new_version_is_downloadable_and_is_what_it_says(stack: Stack, done: Any, parent_weights: bytes) -> None:
    version = stack.client.get("/v1/models/m/versions/latest").json()
    assert (version["number"], version["role"], version["parent"]) == (2, "unlearned", 1)
    answer = stack.client.get("/v1/models/m/versions/2/weights")
    assert hashlib.sha256(answer.content).hexdigest() == version["sha256"]
    assert answer.headers["etag"] == f'"sha256:{version["sha256"]}"'
    assert answer.content != parent_weights


def test_the_parent_answers_410_and_its_bytes_are_gone(stack: Stack, done: Any, parent_weights: bytes) -> None:
    answer = stack.client.get("/v1/models/m/versions/1/weights")
    assert answer.status_code == 410
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "version_retired"
    stack.wait("/v1/models/m/versions/1", lambda version: version["state"] == "purged")
    held = [path.read_bytes() for path in (stack.settings.data_dir / "artifacts").rglob("*") if path.is_file()]
    assert held
    assert parent_weights not in held


def test_the_report_measures_both_models_with_basis_and_interval(stack: Stack, done: Any) -> None:
    report = stack.client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").json()
    found = {(m["name"], m.get("split")): m for m in report["metrics"]}
    for split in ("retain", "forget", "unseen", "test"):
        assert found["accuracy", split]["ci95"][0] <= found["accuracy", split]["value"]
        assert ("loss", split) in found
    attack = found["mia_threshold.phi.auc", None]
    assert attack["basis"] == "unseen controls"
    assert 0 <= attack["ci95"][0] <= attack["value"] <= attack["ci95"][1] <= 1
    before = {(m["name"], m.get("split")): m for m in report["parent_metrics"]}
    assert before["relearning_delay", "forget"]["value"] == 0
    assert ("relearning_delay", "unseen") in found
    assert any(name == "relearning_ratio" for name, _ in found)
    assert report["method"] == "scrub_r"
    assert report["environment"]
    assert report["does_not_prove"]


def test_asking_again_is_fulfilled_at_once(stack: Stack, done: Any, named: list[str]) -> None:
    again = stack.erase(named)
    assert again["status"] == "completed"
    assert again["outcomes"]["already_erased"] == len(named)
    assert again["jobs"] == []


def test_each_leaf_hash_is_that_of_its_entry(stack: Stack, done: Any) -> None:
    entries = stack.client.get("/v1/audit/entries", params={"limit": 1000}).json()["items"]
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    for entry in entries:
        claimed = entry.pop("leaf_hash")
        assert hashlib.sha256(b"\x00" + rfc8785.dumps(entry)).hexdigest() == claimed


def test_the_log_lines_of_a_request_are_found_by_its_id_and_those_of_an_attempt_by_theirs(
    stack: Stack, done: Any
) -> None:
    whole = (line for line in stack.log.read_text().splitlines() if line.startswith("{") and line.endswith("}"))
    lines = [json.loads(line) for line in whole]
    taken_in = next(line for line in lines if line.get("made") == done["id"])
    assert (taken_in["action"], taken_in["method"], taken_in["status"]) == ("http.answered", "POST", 202)
    assert taken_in["http_request_id"]
    of_job = [line for line in lines if line.get("job_id") == done["jobs"][0]["id"] and "fence" in line]
    assert {"attempt.started", "attempt.finished"} <= {line["action"] for line in of_job}
    assert all(line["requests"] == [done["id"]] and line["kind"] == "erase" for line in of_job)


def test_no_erased_id_is_left_anywhere(stack: Stack, done: Any, named: list[str]) -> None:
    """Database with its write-ahead log, broker files, caches, artifacts, logs, and every answer."""
    needles = [sample_id.encode() for sample_id in named]
    with sqlite3.connect(stack.settings.data_dir / "unlearn.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    files = contents(stack.settings.data_dir)
    assert any(path.name == "unlearn.db" for path in files)
    assert any(path.name == "service.log" for path in files)
    for path, content in files.items():
        assert not [needle for needle in needles if needle in content], path
    for answer in _answers(stack, done):
        assert not [needle for needle in needles if needle in answer.content], answer.url


def _answers(stack: Stack, done: Any) -> list[httpx.Response]:
    get = stack.client.get
    return [
        get(f"/v1/deletion-requests/{done['id']}"),
        get("/v1/deletion-requests"),
        get(f"/v1/jobs/{done['jobs'][0]['id']}"),
        get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}"),
        get("/v1/audit/entries", params={"limit": 1000}),
        get("/v1/datasets/digits/samples", params={"limit": 1000}),
        get("/v1/models/m/versions"),
    ]


def test_no_pending_id_leaves_the_index_either(stack: Stack, done: Any) -> None:
    """While a request is open, its ids stand in the index of samples and nowhere else in the database."""
    named = stack.ids(5, skip=300)
    request = stack.erase(named, method="finetune", method_options={"epochs": 1})
    with sqlite3.connect(stack.settings.data_dir / "unlearn.db") as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in set(tables) - {"samples"}:
            rows = json.dumps(connection.execute(f"SELECT * FROM {table}").fetchall(), default=repr)
            assert not [sample_id for sample_id in named if sample_id in rows], table
    assert stack.completed(request["id"])["status"] == "completed"
