"""Receipts and the suppression check over HTTP: one's own id, in the body, within a quota, logged as a count."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from service.cli import app
from service.evidence.receipts import check
from service.store import audit, request_keys
from service.store.tables import RequestKey
from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    folder = tmp_path_factory.mktemp("receipts")
    with running(folder, worker=False, database_url=url, id_checks_per_day="50") as found:
        factories.dataset(found, "d", held_out=30)
        yield found


def _erase(stack: Stack, *ids: str, dataset: str = "d") -> str:
    """Samples of held-out splits: no version knows them, so the request completes at once."""
    request = stack.erase([f"d-{each}" for each in ids], dataset=dataset)
    assert request["status"] == "completed"
    return str(request["id"])


def _ask(stack: Stack, request_id: str, *ids: str) -> Any:
    with stack.client_with("requests:read") as client:
        return client.post(f"/v1/deletion-requests/{request_id}/receipt", json={"sample_ids": list(ids)})


def test_a_receipt_is_given_for_each_covered_id_and_none_for_others(stack: Stack) -> None:
    request_id = _erase(stack, "audit-0", "audit-1", "audit-2")
    answer = _ask(stack, request_id, "d-audit-1", "d-audit-9", "nobody").raise_for_status().json()
    assert [(item["sample_id"], item["covered"]) for item in answer["items"]] == [
        ("d-audit-1", True),
        ("d-audit-9", False),
        ("nobody", False),
    ]
    assert [item["receipt"] for item in answer["items"][1:]] == [None, None]
    receipt = answer["items"][0]["receipt"]
    request = stack.client.get(f"/v1/deletion-requests/{request_id}").json()
    check(receipt, request_id=request_id, commitment_root=request["commitment_root"])
    entry = stack.client.get("/v1/audit/entries", params={"request_id": request_id, "limit": 100}).json()["items"]
    logged = next(each for each in entry if each["action"] == "request.received")
    assert receipt["log_seq"] == logged["seq"]
    assert logged["payload"]["commitment_root"] == receipt["commitment_root"]
    text = json.dumps(receipt)
    assert not [each for each in ("d-audit-0", "d-audit-2", "d-audit-9") if each in text]


def test_each_call_is_logged_as_a_count(stack: Stack) -> None:
    request_id = _erase(stack, "audit-3", "audit-4")
    _ask(stack, request_id, "d-audit-3", "d-audit-9").raise_for_status()
    with stack.database.reading() as session:
        entry = audit.find(session, actions=["receipt.given"], links={"request": request_id})[0]
        assert json.loads(entry.payload) == {"asked": 2, "covered": 1}
        assert not [e for e in audit.find(session, limit=10_000) if "audit-3" in e.payload + e.subject]


def test_a_receipt_of_another_request_is_refused_and_the_right_one_is_not(stack: Stack) -> None:
    first, second = _erase(stack, "audit-5"), _erase(stack, "audit-6")
    receipt = _ask(stack, first, "d-audit-5").json()["items"][0]["receipt"]
    path = "/v1/deletion-requests/{}/receipt/check"
    good = stack.client.post(path.format(first), json={"receipt": receipt})
    assert (good.status_code, good.json()["valid"]) == (200, True)
    bad = stack.client.post(path.format(second), json={"receipt": receipt})
    assert (bad.status_code, bad.json()["code"]) == (422, "receipt_of_another_request")
    renamed = stack.client.post(path.format(second), json={"receipt": {**receipt, "request_id": second}})
    assert (renamed.status_code, renamed.json()["code"]) == (422, "receipt_of_another_root")
    other_id = stack.client.post(path.format(first), json={"receipt": {**receipt, "sample_id": "d-audit-6"}})
    assert (other_id.status_code, other_id.json()["code"]) == (422, "commitment_not_opened")
    assert stack.client.post(path.format(first), json={"receipt": {}}).json()["code"] == "not_a_receipt"


@pytest.mark.parametrize(("note", "wrong"), [("dataset", "other"), ("log_seq", 0)])
def test_what_a_receipt_notes_of_its_request_is_compared(stack: Stack, note: str, wrong: Any) -> None:
    request_id = _erase(stack, "audit-15" if note == "dataset" else "audit-16")
    own = f"d-{'audit-15' if note == 'dataset' else 'audit-16'}"
    receipt = _ask(stack, request_id, own).json()["items"][0]["receipt"]
    path = f"/v1/deletion-requests/{request_id}/receipt/check"
    assert stack.client.post(path, json={"receipt": receipt}).status_code == 200
    answer = stack.client.post(path, json={"receipt": {**receipt, note: wrong}})
    assert (answer.status_code, answer.json()["code"]) == (422, "receipt_altered")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [f"/receipt/{note}"]


def test_after_shredding_no_receipt_is_given_and_those_given_stay_valid(stack: Stack) -> None:
    request_id = _erase(stack, "audit-7")
    receipt = _ask(stack, request_id, "d-audit-7").json()["items"][0]["receipt"]
    with stack.database.writing() as session:
        request_keys.shred(session, request_id, reason="ordered")
    answer = _ask(stack, request_id, "d-audit-7")
    assert (answer.status_code, answer.json()["code"]) == (410, "request_key_shredded")
    assert "d-audit-7" not in answer.text
    checked = stack.client.post(f"/v1/deletion-requests/{request_id}/receipt/check", json={"receipt": receipt})
    assert checked.status_code == 200


def test_a_request_older_than_receipts_says_so(stack: Stack) -> None:
    request_id = _erase(stack, "audit-8")
    with stack.database.writing() as session:
        session.execute(update(RequestKey).where(RequestKey.request_id == request_id).values(commitments=None))
    answer = _ask(stack, request_id, "d-audit-8")
    assert (answer.status_code, answer.json()["code"]) == (410, "commitments_not_kept")


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        (["x", "x"], "duplicate_sample_id"),
        ([f"i{n}" for n in range(1001)], "too_many_sample_ids"),
        ([], "too_short"),
        ([""], "string_too_short"),
    ],
)
def test_bad_bodies_are_refused(stack: Stack, ids: list[str], code: str) -> None:
    request_id = stack.client.get("/v1/deletion-requests").json()["items"][0]["id"]
    answer = _ask(stack, request_id, *ids)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, code)


def test_an_unknown_request_is_a_404(stack: Stack) -> None:
    assert _ask(stack, "req_nobody", "x").status_code == 404
    body: dict[str, Any] = {"receipt": {}}
    assert stack.client.post("/v1/deletion-requests/req_nobody/receipt/check", json=body).status_code == 404


def _check(stack: Stack, *ids: str, dataset: str = "d") -> Any:
    with stack.client_with("suppressions") as client:
        return client.post(f"/v1/datasets/{dataset}/suppressions/check", json={"sample_ids": list(ids)})


def test_the_suppression_check_answers_one_boolean_an_id_in_order(stack: Stack) -> None:
    _erase(stack, "audit-10", "audit-11")
    answer = _check(stack, "nobody", "d-audit-11", "d-train-0", "d-audit-10", "d-audit-11").raise_for_status()
    assert answer.json() == {"dataset": "d", "suppressed": [False, True, False, True, True]}
    with stack.database.reading() as session:
        entry = audit.find(session, actions=["suppressions.checked"], limit=1000)[-1]
    assert (entry.subject, json.loads(entry.payload)) == ("dataset/d", {"count": 5})


def test_suppression_is_of_one_dataset(stack: Stack) -> None:
    factories.dataset(stack, "other")
    _erase(stack, "audit-12")
    assert _check(stack, "d-audit-12", dataset="other").json()["suppressed"] == [False]
    assert _check(stack, "x", dataset="nothing").status_code == 404


def test_ids_looked_up_are_counted_by_key_and_day(stack: Stack) -> None:
    request_id = _erase(stack, "audit-13")
    with stack.client_with("suppressions", "requests:read") as client:
        check_path, receipt_path = "/v1/datasets/d/suppressions/check", f"/v1/deletion-requests/{request_id}/receipt"
        assert client.post(check_path, json={"sample_ids": ["x"] * 30}).status_code == 200
        assert client.post(receipt_path, json={"sample_ids": [f"i{n}" for n in range(15)]}).status_code == 200
        refused = client.post(check_path, json={"sample_ids": ["x"] * 6})
        assert (refused.status_code, refused.json()["code"]) == (429, "id_check_quota_exceeded")
        assert 0 < int(refused.headers["retry-after"]) <= 86_401
        assert "5 are left" in refused.json()["detail"]
        assert client.post(check_path, json={"sample_ids": ["x"] * 5}).status_code == 200, "nothing was counted"
        assert client.post(receipt_path, json={"sample_ids": ["x"]}).status_code == 429
    assert _check(stack, "x").status_code == 200, "another key has its own"


def test_the_suppression_check_is_bounded_and_has_its_own_scope(stack: Stack) -> None:
    answer = _check(stack, *(["x"] * 10_001))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "too_many_sample_ids")
    with stack.client_with("datasets", "requests", "models", "weights", "audit") as client:
        answer = client.post("/v1/datasets/d/suppressions/check", json={"sample_ids": ["x"]})
    assert answer.status_code == 403


def test_the_cli_checks_a_receipt_offline(stack: Stack, tmp_path: Any) -> None:
    request_id = _erase(stack, "audit-14")
    receipt = _ask(stack, request_id, "d-audit-14").json()["items"][0]["receipt"]
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(receipt))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["verify-receipt", str(file), *arguments])
        return result.exit_code, result.output

    root = receipt["commitment_root"]
    code, output = run("--request", request_id, "--root", root)
    assert (code, "covered" in output) == (0, True)
    code, output = run()
    assert (code, "--root" in output) == (0, True), "it says that it was not compared"
    assert run("--request", "req_other")[0] == 1
    assert run("--root", "0" * 64)[0] == 1
    file.write_text("{")
    assert run() == (1, f"{file.name} is not JSON.\n")
