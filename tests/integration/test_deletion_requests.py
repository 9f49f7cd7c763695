"""Odd, hostile and simultaneous calls of /v1/deletion-requests: problems instead of 500, and one of each thing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from service.lifecycle import JobStatus
from service.store import jobs
from service.store.tables import AuditEntry, DeletionRequest, IdempotencyKey, Job, Sample
from tests import factories
from tests.stack import Stack, running

URL = "/v1/deletion-requests"
JSON_LIMIT = 100_000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"max_body_bytes": str(JSON_LIMIT)}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("odd-requests"), worker=False, **settings) as found:
        factories.dataset(found, "still")
        factories.model(found, "still", of="still")
        factories.version(found, "still")
        yield found


@pytest.fixture
def name(served: Stack, request: pytest.FixtureRequest) -> str:
    """A dataset with one trained model of the same name, for this test alone."""
    found = f"t{abs(hash(request.node.nodeid)) % 10**9}"
    factories.dataset(served, found)
    factories.model(served, found, of=found)
    factories.version(served, found)
    return found


def _count(stack: Stack, *tables: type) -> list[int | None]:
    with stack.database.reading() as session:
        return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def _ask(stack: Stack, name: str, *samples: str, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    ids = [f"{name}-{sample}" for sample in samples]
    return stack.client.post(
        URL, json={"dataset": name, "sample_ids": ids, "method": "finetune", **body}, headers=headers
    )


def _is_problem(answer: httpx.Response, *statuses: int) -> Any:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.json()


def test_faults_of_the_body_and_of_the_store_are_listed_together(served: Stack) -> None:
    body = {
        "dataset": "still",
        "sample_ids": ["still-train-0", "still-train-0", "nobody"],
        "method": "magic",
        "models": ["nothing"],
    }
    problem = _is_problem(served.client.post(URL, json=body), 422)
    assert {(fault["pointer"], fault["code"]) for fault in problem["errors"]} == {
        ("/sample_ids", "duplicate_sample_id"),
        ("/sample_ids/2", "not_found_in_dataset"),
        ("/method", "unknown_method"),
        ("/models/0", "model_not_found"),
    }


def test_every_model_that_cannot_be_worked_on_is_named(served: Stack, name: str) -> None:
    for other in ("a", "b"):
        factories.model(served, name + other, of=name, recipe=None)
        factories.version(served, name + other)
    before = _count(served, DeletionRequest, Job, AuditEntry)
    problem = _is_problem(_ask(served, name, "train-0", method="retrain"), 422)
    assert [fault["code"] for fault in problem["errors"]] == ["method_needs_not_met"] * 2
    assert name + "a" in problem["errors"][0]["detail"]
    assert name + "b" in problem["errors"][1]["detail"]
    assert _count(served, DeletionRequest, Job, AuditEntry) == before
    with served.database.reading() as session:
        state = session.scalar(select(Sample.state).where(Sample.sample_id == f"{name}-train-0"))
    assert state == "live"


ODD_BODIES: list[bytes] = [
    b'{"dataset":"still","sample_ids":["a\\u0000b"]}',
    b'{"dataset":"still","sample_ids":["\\ud800"]}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"\\udfff"}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"scrub","method_options":{"\\ud800":"\\udfff"}}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"received_at":"0001-01-01T00:00:00+14:00"}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"received_at":"1969-12-31T00:00:00Z"}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"scrub","method_options":{"lr":NaN}}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"scrub","method_options":{"epochs":1e999}}',
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"scrub","method_options":{"seed":'
    + b"9" * 400
    + b"}}",
    b'{"dataset":"still","sample_ids":["still-train-0"],"method":"scrub","method_options":{"seed":'
    + b"9" * 9000
    + b"}}",
    b'{"dataset":"still","sample_ids":["still-train-0",7,null,["x"],{"y":1}]}',
    b'{"dataset":"still","sample_ids":["' + b"x" * 600 + b'"]}',
    b'{"dataset":"still","sample_ids":{"a":1}}',
    b"[" * 50_000,
    b"\xff\xfe\x00",
    b"",
    b"null",
    b"[]",
]


@pytest.mark.parametrize("number", range(len(ODD_BODIES)))
def test_odd_bytes_are_a_problem_of_the_client(served: Stack, number: int) -> None:
    before = _count(served, DeletionRequest, Job, AuditEntry)
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"odd-{number}"}
    _is_problem(served.client.post(URL, content=ODD_BODIES[number], headers=headers), 400, 422)
    assert _count(served, DeletionRequest, Job, AuditEntry) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/datasets/a%00b",
        "/v1/deletion-requests/%00",
        "/v1/audit/entries?actor=%00",
        "/v1/deletion-requests?dataset=a%00b",
        "/v1/deletion-requests?cursor=MTphAGI",
        "/v1/datasets?cursor=MTphAGI",
        "/v1/models/still/versions/99999999999999999999",
        "/v1/models/still/versions/-1",
        "/v1/models/still/versions?cursor=MTo5OTk5OTk5OTk5OTk5OTk5OTk5OTk5",
        "/v1/datasets/still/samples?label=99999999999999999999",
        "/v1/datasets/still/samples?limit=0",
        "/v1/audit/entries?since=0001-01-01T00:00:00%2B14:00",
        "/v1/audit/entries?until=9999-12-31T23:59:59-14:00",
        "/v1/audit/entries?after=99999999999999999999",
        "/v1/audit/entries?limit=1001",
    ],
)
def test_odd_urls_are_a_problem_of_the_client(served: Stack, path: str) -> None:
    _is_problem(served.client.get(path), 400, 404, 422)


def test_following_events_from_an_absurd_number_is_a_problem(served: Stack, name: str) -> None:
    request = _ask(served, name, "train-0").json()
    answer = served.client.get(f"{URL}/{request['id']}/events", headers={"Last-Event-ID": "9" * 19})
    _is_problem(answer, 422)


def test_claiming_to_be_weights_does_not_raise_the_limit_of_a_json_route(served: Stack) -> None:
    content = iter([b"x" * 60_000, b"x" * 60_000])
    answer = served.client.post(URL, content=content, headers={"Content-Type": "application/vnd.safetensors"})
    assert _is_problem(answer, 413)["code"] == "body_too_large"


def test_one_key_sent_eight_times_at_once_stores_one_request(served: Stack, name: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _ask(served, name, "train-7", "train-8", key=name), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum(answer.headers.get("idempotent-replayed") == "true" for answer in answers) == 7
    with served.database.reading() as session:
        kept = session.scalars(select(IdempotencyKey).where(IdempotencyKey.key == name)).all()
    assert len(kept) == 1
    assert len(served.client.get(URL, params={"dataset": name}).json()["items"]) == 1


def test_one_key_sent_at_once_with_eight_bodies_takes_one_of_them(served: Stack, name: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: _ask(served, name, f"train-{i}", key=name), range(8)))
    assert sorted(answer.status_code for answer in answers) == [202] + [422] * 7
    assert {a.json()["code"] for a in answers if a.status_code == 422} == {"idempotency_key_reused"}
    assert len(served.client.get(URL, params={"dataset": name}).json()["items"]) == 1


def test_a_key_belongs_to_its_principal(served: Stack, name: str) -> None:
    mine = _ask(served, name, "train-0", key=name).json()
    with served.client_with("requests", "datasets") as other:
        body = {"dataset": name, "sample_ids": [f"{name}-train-0"], "method": "finetune"}
        theirs = other.post(URL, json=body, headers={"Idempotency-Key": name}).json()
    assert theirs["id"] != mine["id"]


def test_a_refused_request_does_not_use_its_key_up(served: Stack, name: str) -> None:
    _is_problem(_ask(served, name, "nobody", key=name), 422)
    assert _ask(served, name, "train-0", key=name).status_code == 202


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_a_name_wanted_eight_times_at_once_is_given_once(served: Stack, name: str, kind: str) -> None:
    body = {"name": name + "x", "dataset": name, "architecture": "small_cnn"}
    if kind == "datasets":
        body = {"name": name + "x", "source": "sklearn:digits"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: served.client.post(f"/v1/{kind}", json=body), range(8)))
    assert sorted(answer.status_code for answer in answers)[1:] == [409] * 7
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"already_exists"}


def test_work_that_has_started_cannot_be_cancelled(served: Stack, name: str) -> None:
    request = _ask(served, name, "train-0").json()
    with served.database.writing() as session:
        others = select(Job.id).where(Job.status == JobStatus.QUEUED, Job.id != request["jobs"][0]["id"])
        waiting = list(session.scalars(others))
        session.execute(update(Job).where(Job.id.in_(waiting)).values(status=JobStatus.HELD))
    claim = jobs.claim_next(served.database, owner="test", lease_seconds=60)
    assert claim is not None
    assert claim.job_id == request["jobs"][0]["id"]
    problem = _is_problem(served.client.delete(f"{URL}/{request['id']}"), 409)
    assert problem["code"] == "work_has_started"
    assert served.client.get(f"{URL}/{request['id']}").json()["status"] == "in_progress"
    answer = served.client.post(f"/v1/jobs/{claim.job_id}/retry")
    assert _is_problem(answer, 409)["code"] == "job_is_running"
    with served.database.reading() as session:
        assert session.get_one(Job, claim.job_id).fence == claim.fence


def test_cancelling_one_of_a_gathered_job_leaves_the_other(served: Stack, name: str) -> None:
    one, two = _ask(served, name, "train-0").json(), _ask(served, name, "train-1").json()
    job = one["jobs"][0]["id"]
    assert two["jobs"][0]["id"] == job
    assert served.client.delete(f"{URL}/{one['id']}").json()["jobs"] == []
    assert served.client.get(f"/v1/jobs/{job}").json()["status"] == "queued"
    assert served.client.delete(f"{URL}/{one['id']}").json()["status"] == "cancelled"
    assert served.client.delete(f"{URL}/{two['id']}").status_code == 200
    assert served.client.get(f"/v1/jobs/{job}").json()["status"] == "cancelled"


def test_a_quarantine_ends_with_its_request_whatever_other_models_wait_for(served: Stack, name: str) -> None:
    strict = name + "strict"
    factories.model(served, strict, of=name, policy={"stop_serving": "immediately"})
    factories.version(served, strict)
    state = f"/v1/models/{strict}/versions/1"
    _ask(served, name, "train-0", purpose="bias", method="scrub")
    assert served.client.get(state).json()["state"] == "active", "only privacy stops serving"
    withheld = _ask(served, name, "train-0").json()
    assert served.client.get(state).json()["state"] == "quarantined"
    _ask(served, name, "train-0", models=[name])
    served.client.delete(f"{URL}/{withheld['id']}").raise_for_status()
    assert served.client.get(state).json()["state"] == "active"


def test_a_quarantine_lasts_while_another_request_for_the_model_is_open(served: Stack, name: str) -> None:
    strict = name + "strict"
    factories.model(served, strict, of=name, policy={"stop_serving": "immediately"})
    factories.version(served, strict)
    one, two = (_ask(served, name, "train-0", models=[strict]).json() for _ in range(2))
    served.client.delete(f"{URL}/{one['id']}").raise_for_status()
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "quarantined"
    served.client.delete(f"{URL}/{two['id']}").raise_for_status()
    assert served.client.get(f"/v1/models/{strict}/versions/1").json()["state"] == "active"


def test_the_idempotency_row_holds_no_sample_id(served: Stack, name: str) -> None:
    _ask(served, name, "train-0", "nobody", unresolved="report", key=name)
    with served.database.reading() as session:
        row = session.scalars(select(IdempotencyKey).where(IdempotencyKey.key == name)).one()
    assert f"{name}-" not in json.dumps(row.answer)
