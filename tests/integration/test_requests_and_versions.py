"""Deletion requests and versions over HTTP, without a worker: what is taken in, gathered, cancelled, served."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select

from service.lifecycle import SampleState, VersionState
from service.store import versions
from service.store.tables import Sample, Version
from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("requests"), worker=False, **settings) as found:
        yield found


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A dataset and model name of the test's own."""
    return "t" + str(abs(hash(request.node.nodeid)) % 10**9)


@pytest.fixture
def stack(served: Stack, name: str) -> Stack:
    factories.dataset(served, name)
    factories.model(served, name, of=name)
    factories.version(served, name)
    return served


def _ask(stack: Stack, name: str, *sample_ids: str, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"dataset": name, "sample_ids": [f"{name}-{i}" for i in sample_ids], "method": "finetune", **body}
    answer = stack.client.post("/v1/deletion-requests", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/deletion-requests/{answer.json()['id']}"
    return answer.json()


def _states(stack: Stack, name: str, *sample_ids: str) -> list[str]:
    with stack.database.reading() as session:
        return [str(session.scalar(select(Sample.state).where(Sample.sample_id == f"{name}-{i}"))) for i in sample_ids]


def test_a_request_fans_out_to_every_model_trained_on_the_samples(stack: Stack, name: str) -> None:
    factories.model(stack, name + "b", of=name)
    factories.version(stack, name + "b")
    factories.model(stack, name + "untrained", of=name)
    request = _ask(stack, name, "train-0", "train-1")
    assert {job["model"] for job in request["jobs"]} == {name, name + "b"}
    assert request["scope"] == "full"
    assert request["due_at"]
    assert request["outcomes"]["pending"] == 2
    assert _states(stack, name, "train-0", "train-2") == ["pending", "live"]


def test_equal_requests_gather_in_one_queued_job_and_others_do_not(stack: Stack, name: str) -> None:
    first = _ask(stack, name, "train-0")
    second = _ask(stack, name, "train-1")
    other = _ask(stack, name, "train-2", method_options={"epochs": 3})
    bias = _ask(stack, name, "train-3", purpose="bias")
    assert first["jobs"][0]["id"] == second["jobs"][0]["id"]
    assert len({request["jobs"][0]["id"] for request in (first, other, bias)}) == 3
    assert bias["due_at"] is None


def test_narrowing_to_a_model_is_marked_partial(stack: Stack, name: str) -> None:
    factories.model(stack, name + "b", of=name)
    factories.version(stack, name + "b")
    request = _ask(stack, name, "train-0", models=[name])
    assert request["scope"] == "partial"
    assert [job["model"] for job in request["jobs"]] == [name]


def test_held_out_ids_are_erased_without_a_job(stack: Stack, name: str) -> None:
    request = _ask(stack, name, "audit-0", "selection-1")
    assert request["status"] == "completed"
    assert request["jobs"] == []
    assert request["outcomes"]["erased_not_trained_on"] == 2
    again = _ask(stack, name, "audit-0")
    assert again["outcomes"]["already_erased"] == 1
    listed = stack.client.get(f"/v1/datasets/{name}/samples", params={"limit": 1000}).json()["items"]
    assert f"{name}-audit-0" not in [item["sample_id"] for item in listed]


def test_an_erased_id_looks_unknown_to_a_key_that_may_not_read_the_dataset(stack: Stack, name: str) -> None:
    _ask(stack, name, "audit-0")
    with stack.client_with("requests:write") as client:
        body = {"dataset": name, "sample_ids": [f"{name}-audit-0"]}
        answer = client.post("/v1/deletion-requests", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "not_found_in_dataset"


def test_unresolved_ids_can_be_reported_instead(stack: Stack, name: str) -> None:
    request = _ask(stack, name, "train-0", "nobody", unresolved="report", key=name)
    assert request["unresolved_sample_ids"] == [f"{name}-nobody"]
    assert request["outcomes"]["not_found"] == 1
    assert request["num_samples"] == 1
    assert _ask(stack, name, "train-0", "nobody", unresolved="report", key=name) == request


def test_one_key_sent_many_times_at_once_makes_one_request(stack: Stack, name: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: _ask(stack, name, "train-7", key=name), range(8)))
    assert len({request["id"] for request in found}) == 1


def test_cancelling_before_work_starts_gives_the_samples_back(stack: Stack, name: str) -> None:
    request = _ask(stack, name, "train-0", "train-1")
    other = _ask(stack, name, "train-1", method_options={"epochs": 2})
    answer = stack.client.delete(f"/v1/deletion-requests/{request['id']}")
    assert answer.json()["status"] == "cancelled"
    assert _states(stack, name, "train-0", "train-1") == ["live", "pending"]
    job = stack.client.get(f"/v1/jobs/{request['jobs'][0]['id']}").json()
    assert job["status"] == "cancelled"
    stack.client.delete(f"/v1/deletion-requests/{other['id']}")
    assert _states(stack, name, "train-1") == ["live"]


def test_stop_serving_immediately_quarantines_until_the_request_is_cancelled(served: Stack, name: str) -> None:
    factories.dataset(served, name)
    factories.model(served, name, of=name, policy={"stop_serving": "immediately"})
    factories.version(served, name)
    url = f"/v1/models/{name}/versions/1/weights"
    assert served.client.get(url).status_code == 200
    request = _ask(served, name, "train-0")
    answer = served.client.get(url)
    assert (answer.status_code, answer.json()["code"]) == (403, "version_quarantined")
    served.client.delete(f"/v1/deletion-requests/{request['id']}")
    assert served.client.get(url).status_code == 200


def test_listing_pages_through_all_requests_newest_first(stack: Stack, name: str) -> None:
    made = [_ask(stack, name, f"train-{i}")["id"] for i in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        params: dict[str, Any] = {"dataset": name, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = stack.client.get("/v1/deletion-requests", params=params).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_the_download_is_an_honest_file(stack: Stack, name: str) -> None:
    url = f"/v1/models/{name}/versions/latest/weights"
    whole = stack.client.get(url)
    assert whole.headers["content-length"] == str(len(whole.content)) == "4096"
    assert whole.headers["repr-digest"].startswith("sha-256=:")
    tag = whole.headers["etag"]
    assert tag.startswith('"sha256:')
    head = stack.client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4096")
    part = stack.client.get(url, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["content-range"] == "bytes 100-199/4096"
    same = stack.client.get(url, headers={"Range": "bytes=0-9", "If-Range": tag})
    assert (same.status_code, same.content) == (206, whole.content[:10])
    changed = stack.client.get(url, headers={"Range": "bytes=0-9", "If-Range": '"sha256:other"'})
    assert (changed.status_code, len(changed.content)) == (200, 4096)
    assert stack.client.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert stack.client.get(url, headers={"Range": "bytes=9999-"}).status_code == 416
    log = stack.client.get("/v1/audit/entries", params={"model": name, "action": "version.downloaded"}).json()["items"]
    assert len(log) >= 4
    assert all(entry["actor"].startswith("key_") for entry in log)


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("retired", 410, "version_retired"),
        ("validating", 409, "version_validating"),
        ("rejected", 409, "version_rejected"),
    ],
)
def test_only_active_versions_are_served(stack: Stack, name: str, state: str, status: int, code: str) -> None:
    row = factories.version(stack, name, state=VersionState.VALIDATING)
    with stack.database.writing() as session:
        found = session.get_one(Version, row.id)
        if state == "retired":
            versions.move(session, found, VersionState.ACTIVE)
        if state != "validating":
            versions.move(session, found, VersionState(state))
    answer = stack.client.get(f"/v1/models/{name}/versions/{row.number}/weights")
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_retired_digest_cannot_be_uploaded_again(stack: Stack, name: str) -> None:
    content = factories.safetensors(w=[1.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = stack.client.post(f"/v1/models/{name}/versions", content=content, headers=headers)
    assert (answer.status_code, answer.json()["state"]) == (201, "validating")
    with stack.database.writing() as session:
        found = session.scalars(select(Version).where(Version.sha256 == answer.json()["sha256"])).one()
        versions.move(session, found, VersionState.ACTIVE)
        versions.move(session, found, VersionState.RETIRED)
    again = stack.client.post(f"/v1/models/{name}/versions", content=content, headers=headers)
    assert (again.status_code, again.json()["code"]) == (409, "digest_retired")


def test_an_upload_is_caught_by_requests_that_are_open(served: Stack, name: str) -> None:
    factories.dataset(served, name)
    factories.model(served, name, of=name)
    factories.version(served, name)
    request = _ask(served, name, "train-0")
    factories.model(served, name + "late", of=name)
    content = factories.safetensors(w=[2.0, float(len(name))])
    headers = {"Content-Type": "application/vnd.safetensors"}
    answer = served.client.post(f"/v1/models/{name}late/versions", content=content, headers=headers)
    assert answer.status_code == 201
    jobs = served.client.get(f"/v1/deletion-requests/{request['id']}").json()["jobs"]
    assert {job["model"] for job in jobs} == {name, name + "late"}


def test_sample_states_are_the_known_ones() -> None:
    assert {state.value for state in SampleState} == {"live", "pending", "erased", "vanished"}
