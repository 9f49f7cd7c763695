"""GET /v1/deletion-requests/{id}/certificate: who may, what it answers before there is one, and what the log keeps."""

import hashlib
import json

import pytest
from sqlalchemy import update

from service.evidence import verify
from service.lifecycle import JobStatus
from service.store import (
    certificates,
)
from service.store.tables import DeletionRequest
from tests.integration.certificates.place import Place, ask, issue, model, work


def test_asked_too_early_it_says_where_the_request_stands(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (answer.status_code, answer.json()["code"]) == (409, "certificate_not_ready")
    assert answer.json()["request_status"] == "accepted"
    assert len(answer.json()["waits_for"]) == 1
    assert answer.json()["waits_for"][0].endswith(f"({JobStatus.QUEUED})")


@pytest.mark.parametrize("status", ["cancelled", "denied"])
def test_what_was_not_done_has_no_certificate(place: Place, name: str, status: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    with place.database.writing() as session:
        session.execute(update(DeletionRequest).where(DeletionRequest.id == request_id).values(status=status))
    answer = place.get(f"/v1/deletion-requests/{request_id}/certificate")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_certificate")
    assert status in answer.json()["detail"]
    assert place.get("/v1/deletion-requests/req_none/certificate").status_code == 404


@pytest.mark.parametrize(
    ("scope", "status"),
    [("audit:read", 200), ("requests:read", 200), ("admin", 200), ("weights:read", 403), ("requests:write", 403)],
)
def test_it_takes_the_scope_of_the_log_or_of_requests(place: Place, name: str, scope: str, status: int) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    for path in ("certificate", "certificate.html"):
        assert place.get(f"/v1/deletion-requests/{request_id}/{path}", scope).status_code == status
    assert place.call(f"/v1/deletion-requests/{request_id}/certificate").status_code == 401


def test_each_fetch_is_in_the_log(place: Place, name: str) -> None:
    request_id = ask(place, name, "train-0")
    issue(place)
    path = f"/v1/deletion-requests/{request_id}/certificate"
    bundle, page = place.get(path), place.get(path, accept="text/html")
    assert bundle.headers["etag"] == f'"sha256:{hashlib.sha256(bundle.content).hexdigest()}"'
    assert page.headers["content-type"].startswith("text/html")
    assert place.get(f"{path}.html").text == page.text
    assert place.get(path, accept="application/json, text/html").content == bundle.content
    forms = [json.loads(row.payload)["form"] for row in place.entries(certificates.FETCHED, request_id)]
    assert forms == ["bundle", "page", "page", "bundle"]


def test_the_schema_is_served(place: Place) -> None:
    answer = place.get("/v1/schemas/unlearning-certificate/v1", "models:read")
    assert answer.json() == verify.PREDICATE_SCHEMA
    assert place.call("/v1/schemas/unlearning-certificate/v1").status_code == 401


def test_the_answer_about_retired_weights_names_the_certificate(place: Place, name: str) -> None:
    model(place, name)
    request_id = ask(place, name, "train-0")
    work(place)
    answer = place.get(f"/v1/models/{name}/versions/1/weights", "weights:read")
    assert answer.status_code == 410
    assert answer.json()["certificate"] == f"/v1/deletion-requests/{request_id}/certificate"
