"""What people write about a decision: shown, committed to, and gone with the request's key."""

import hmac
from typing import Any

import pytest
from sqlalchemy import func, select, text

from service.store import (
    request_keys,
)
from service.store.tables import AuditEntry, RequestDecision
from tests.integration.decisions.deciding import (
    NOTE,
    URL,
    ask,
    decide,
    faults_of,
    log_of,
    read,
    refused,
)
from tests.stack import Stack


@pytest.mark.parametrize("what", ["extension", "deny", "hold", "release"])
def test_a_decision_about_no_request_is_not_found(served: Stack, what: str) -> None:
    bodies: dict[str, Any] = {
        "extension": {"months": 1, "reason": "x"}, "deny": {"reason": "no_match"}, "hold": {"reason": "x"},
        "release": {},
    }  # fmt: skip
    refused(decide(served, {"id": "req_nobody"}, what, **bodies[what]), 404, "deletion_request_not_found")
    with served.client_with("requests:read") as reader:
        refused(reader.post(f"{URL}/req_nobody/{what}", json=bodies[what]), 403, "forbidden")


def test_what_is_written_is_shown_and_the_log_holds_its_commitment_alone(served: Stack, name: str) -> None:
    request = ask(served, name)
    decide(served, request, "extension", months=1, reason=NOTE).raise_for_status()
    decide(served, request, "hold", reason=NOTE).raise_for_status()
    decide(served, request, "release").raise_for_status()
    decide(served, request, "deny", reason="other", note=NOTE).raise_for_status()
    decided = read(served, request)["decisions"]
    assert [each["kind"] for each in decided] == ["extension", "hold", "release", "denial"]
    logged = [log_of(served, request, f"request.{action}")[0] for action in ("extended", "held", "denied")]
    for each, payload in zip([decided[0], decided[1], decided[3]], logged, strict=True):
        assert each["note"] == NOTE
        opened = hmac.digest(bytes.fromhex(each["note_key"]), NOTE.encode(), "sha256").hex()
        assert payload["note_commitment"] == opened
    with served.database.reading() as session:
        everything = session.scalars(select(AuditEntry.payload)).all()
        events = session.execute(text("SELECT data FROM events")).all()
    assert not any("counsel" in str(each) for each in (*everything, *events))


def test_what_is_written_goes_with_the_requests_key_and_what_was_decided_stays(served: Stack, name: str) -> None:
    request = ask(served, name)
    decide(served, request, "deny", reason="other", note=NOTE).raise_for_status()
    with served.database.writing() as session:
        request_keys.shred(session, request["id"], reason="test")
    (left,) = read(served, request)["decisions"]
    assert (left["kind"], left["reason"], left["note"], left["note_key"]) == ("denial", "other", None, None)
    assert "note_commitment" in log_of(served, request, "request.denied")[0]


@pytest.mark.parametrize("shape", ["{}", "about {}.", "({})", "{}\nand more"])
def test_a_text_that_names_a_sample_of_the_request_is_refused_unheard(served: Stack, name: str, shape: str) -> None:
    request = ask(served, name, "train-0", "train-1")
    said = shape.format(f"{name}-train-1")
    for what, body, pointer in (
        ("extension", {"months": 1, "reason": said}, "/reason"),
        ("deny", {"reason": "other", "note": said}, "/note"),
        ("hold", {"reason": said}, "/reason"),
    ):
        answer = decide(served, request, what, **body)
        assert faults_of(answer) == {(pointer, "names_a_sample")}
        assert f"{name}-train-1" not in answer.text
    with served.database.reading() as session:
        mine = select(func.count()).where(RequestDecision.request_id == request["id"])
        assert session.scalar(mine) == 0
    decide(served, request, "hold", reason=f"{name}-train-12 is another one").raise_for_status()
