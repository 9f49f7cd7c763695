"""Bad input: a clear problem document that lists every fault, nothing stored, nothing half done."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service.store import datasets
from service.store.tables import AuditEntry, DeletionRequest, Job, Version
from tests import factories
from tests.stack import Stack, running

BODY_LIMIT = 200_000


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "roots").mkdir()
    (folder / "outside.npz").write_bytes(b"x")
    (folder / "roots" / "link.npz").symlink_to(folder / "outside.npz")
    settings = {"allowed_roots": str(folder / "roots"), "max_body_bytes": str(BODY_LIMIT)}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(folder, worker=False, **settings) as found:
        factories.dataset(found)
        factories.dataset(found, "other")
        factories.model(found)
        factories.version(found)
        factories.model(found, "norecipe", of="other", recipe=None)
        factories.version(found, "norecipe")
        yield found


def _stored(stack: Stack) -> list[int | None]:
    with stack.database.reading() as session:
        return [
            session.scalar(select(func.count()).select_from(table))
            for table in (DeletionRequest, Job, Version, AuditEntry)
        ]


def _refused(stack: Stack, answer: httpx.Response, status: int, code: str, before: list[int | None]) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["type"]
    assert problem["title"]
    assert len(problem["detail"]) > 10
    assert _stored(stack) == before, "something was stored"
    return problem


def _post(stack: Stack, **body: Any) -> httpx.Response:
    return stack.client.post("/v1/deletion-requests", json={"dataset": "d", "sample_ids": ["d-train-0"], **body})


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ({"sample_ids": []}, {"no_sample_ids"}),
        ({"sample_ids": ["d-train-1", "d-train-1"]}, {"duplicate_sample_id"}),
        ({"method": "magic"}, {"unknown_method"}),
        ({"method": "scrub_r", "method_options": {"lr": -1}}, {"greater_than"}),
        ({"method": "finetune", "method_options": {"colour": 1}}, {"extra_forbidden"}),
        ({"models": ["nobody"]}, {"model_not_found"}),
        ({"dataset": "nothing"}, {"dataset_not_found"}),
        ({"purpose": "fun"}, {"literal_error"}),
        ({"surprise": 1}, {"extra_forbidden"}),
        ({"received_at": "2999-01-01T00:00:00Z"}, {"received_at_in_future"}),
        ({"received_at": "1969-12-31T00:00:00Z"}, {"received_at_too_early"}),
        ({"received_at": "2024-01-01T00:00:00"}, {"timezone_aware"}),
        ({"sample_ids": [f"d-train-{i}" for i in range(40)]}, {"forget_set_is_whole_training_set"}),
        ({"method": "magic", "sample_ids": ["d-train-1", "d-train-1"]}, {"unknown_method", "duplicate_sample_id"}),
    ],
)
def test_every_fault_of_a_request_is_listed(stack: Stack, body: dict[str, Any], codes: set[str]) -> None:
    before = _stored(stack)
    problem = _refused(stack, _post(stack, **body), 422, "invalid_request", before)
    assert {fault["code"] for fault in problem["errors"]} == codes
    assert all(fault["pointer"].startswith("/") for fault in problem["errors"])


def test_unknown_ids_and_ids_of_another_dataset_are_listed(stack: Stack) -> None:
    before = _stored(stack)
    answer = _post(stack, sample_ids=["d-train-0", "nobody", "other-train-0"])
    problem = _refused(stack, answer, 422, "unresolved_sample_ids", before)
    assert [(f["pointer"], f["code"], f["value"]) for f in problem["errors"]] == [
        ("/sample_ids/1", "not_found_in_dataset", "nobody"),
        ("/sample_ids/2", "not_found_in_dataset", "other-train-0"),
    ]


def test_offenders_are_bounded_and_counted(stack: Stack) -> None:
    before = _stored(stack)
    answer = _post(stack, sample_ids=[f"nobody-{i}" for i in range(500)])
    problem = _refused(stack, answer, 422, "unresolved_sample_ids", before)
    assert len(problem["errors"]) == 100
    assert problem["errors_total"] == 500


def test_a_method_whose_needs_the_model_cannot_meet_is_refused(stack: Stack) -> None:
    before = _stored(stack)
    answer = _post(stack, dataset="other", sample_ids=["other-train-0"], method="retrain")
    problem = _refused(stack, answer, 422, "invalid_request", before)
    assert problem["errors"][0]["code"] == "method_needs_not_met"


@pytest.mark.parametrize(("purpose", "method"), [("privacy", "finetune"), ("bias", "scrub"), ("confusion", "ssd")])
def test_a_method_that_reads_what_is_gone_is_refused_with_those_that_can_work(
    stack: Stack, purpose: str, method: str
) -> None:
    factories.dataset(stack, f"gone-{purpose}")
    factories.model(stack, f"gone-{purpose}", of=f"gone-{purpose}", policy={"retain_data": "gone"})
    factories.version(stack, f"gone-{purpose}")
    before = _stored(stack)
    named = {"dataset": f"gone-{purpose}", "sample_ids": [f"gone-{purpose}-train-0"]}
    problem = _refused(stack, _post(stack, **named, purpose=purpose, method=method), 422, "invalid_request", before)
    (fault,) = problem["errors"]
    assert (fault["pointer"], fault["code"], fault["value"]) == ("/method", "method_needs_not_met", method)
    assert "delete, mu_mis" in fault["detail"]


def test_a_class_that_is_not_there_is_refused_and_one_without_samples_left_is_an_empty_page(stack: Stack) -> None:
    before = _stored(stack)
    problem = _refused(stack, stack.client.get("/v1/datasets/d/samples?label=4"), 422, "invalid_request", before)
    assert problem["errors"][0]["pointer"] == "/query/label"
    assert "0 to 3" in problem["detail"]
    answer = stack.client.get("/v1/datasets/d/samples", params={"label": 3, "split": "train"})
    assert len(answer.json()["items"]) == 10


@pytest.mark.parametrize("route", ["/v1/deletion-requests", "/v1/models/m/versions"])
@pytest.mark.parametrize("body", [b"{", b'{"dataset": "d", "sample_ids": ["patient-17" "x"]}'])
def test_malformed_json_is_a_bad_request_and_is_not_echoed(stack: Stack, route: str, body: bytes) -> None:
    before = _stored(stack)
    answer = stack.client.post(route, content=body, headers={"Content-Type": "application/json"})
    problem = _refused(stack, answer, 400, "malformed_json", before)
    assert "not JSON" in problem["detail"]
    assert "patient-17" not in answer.text


def test_the_problem_of_malformed_json_says_where(stack: Stack) -> None:
    body = b'{"dataset": "d",, "sample_ids": []}'
    answer = stack.client.post("/v1/deletion-requests", content=body, headers={"Content-Type": "application/json"})
    assert "character 16" in answer.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(stack: Stack, *, announced: bool) -> None:
    before = _stored(stack)
    body = b'{"dataset": "d", "sample_ids": ["' + b"x" * BODY_LIMIT + b'"]}'
    content: Any = body if announced else iter([body[:1000], body[1000:]])
    answer = stack.client.post("/v1/deletion-requests", content=content, headers={"Content-Type": "application/json"})
    _refused(stack, answer, 413, "body_too_large", before)


def test_an_idempotency_key_with_another_body_is_refused(stack: Stack) -> None:
    key = {"Idempotency-Key": "reused"}
    body = {"dataset": "d", "sample_ids": ["d-train-5"], "method": "finetune"}
    first = stack.client.post("/v1/deletion-requests", json=body, headers=key)
    assert first.status_code == 202
    before = _stored(stack)
    again = stack.client.post("/v1/deletion-requests", json=body, headers=key)
    assert again.json() == first.json()
    assert _stored(stack) == before
    other = stack.client.post("/v1/deletion-requests", json={**body, "sample_ids": ["d-train-6"]}, headers=key)
    _refused(stack, other, 422, "idempotency_key_reused", before)


@pytest.mark.parametrize("path", ["outside.npz", "roots/../outside.npz", "roots/link.npz"])
def test_a_path_outside_the_allowed_roots_is_refused(stack: Stack, path: str) -> None:
    before = _stored(stack)
    body = {"name": "x", "source": "npz", "path": str(stack.settings.data_dir / path)}
    _refused(stack, stack.client.post("/v1/datasets", json=body), 422, "path_not_allowed", before)


def test_every_fault_of_a_dataset_is_listed_at_once(stack: Stack) -> None:
    before = _stored(stack)
    body = {"name": "no name", "source": "torchvision:CIFAR10", "path": "/x", "decode": {"size": [0, 1]}}
    answer = stack.client.post("/v1/datasets", json=body)
    _refused(stack, answer, 422, "invalid_request", before)
    assert {fault["pointer"] for fault in answer.json()["errors"]} == {"/name", "/root", "/path", "/decode/size/0"}


@pytest.mark.parametrize("path", ["/etc/passwd", "relative.npz", "http://127.0.0.1/x.npz", "/a\x00b"])
def test_other_locations_are_refused_too(stack: Stack, path: str) -> None:
    before = _stored(stack)
    body = {"name": "x", "source": "npz", "path": path}
    _refused(stack, stack.client.post("/v1/datasets", json=body), 422, "path_not_allowed", before)


def _upload(stack: Stack, content: bytes, **headers: str) -> httpx.Response:
    return stack.client.post(
        "/v1/models/m/versions",
        content=content,
        headers={"Content-Type": "application/vnd.safetensors", **headers},
    )


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "not_safetensors"),
        (b"PK\x03\x04 this is a pickle in a zip", "not_safetensors"),
        (factories.safetensors(w=[1.0, 2.0])[:-3], "truncated"),
        (factories.safetensors(w=[1.0, 2.0]) + b"x", "truncated"),
        (factories.safetensors(), "not_safetensors"),
    ],
)
def test_weights_that_are_not_whole_safetensors_are_refused(stack: Stack, content: bytes, code: str) -> None:
    before = _stored(stack)
    _refused(stack, _upload(stack, content), 422, code, before)


def test_weights_of_another_digest_than_stated_are_refused(stack: Stack) -> None:
    before = _stored(stack)
    digest = base64.b64encode(hashlib.sha256(b"something else").digest()).decode()
    answer = _upload(stack, factories.safetensors(w=[1.0]), **{"Repr-Digest": f"sha-256=:{digest}:"})
    _refused(stack, answer, 422, "digest_mismatch", before)
    answer = _upload(stack, factories.safetensors(w=[1.0]), **{"Repr-Digest": "md5=:AAAA:"})
    _refused(stack, answer, 422, "invalid_digest", before)


def test_another_media_type_is_refused(stack: Stack) -> None:
    before = _stored(stack)
    answer = stack.client.post("/v1/models/m/versions", content=b"x", headers={"Content-Type": "text/plain"})
    _refused(stack, answer, 415, "unsupported_media_type", before)


@pytest.mark.parametrize(
    ("size", "architecture", "options", "pointer", "remedy"),
    [
        ((1, 7, 8), "small_cnn", {}, "/architecture", "another dataset"),
        ((1, 8, 7), "resnet18", {}, "/architecture", "another dataset"),
        ((1, 31, 31), "resnet18", {"stem": "imagenet"}, "/architecture_options", "small"),
        ((1, 7, 7), "resnet18", {"stem": "imagenet"}, "/architecture", "another dataset"),
    ],
)
def test_a_network_too_big_for_the_images_is_refused_at_registration(
    stack: Stack,
    size: tuple[int, int, int],
    architecture: str,
    options: dict[str, Any],
    pointer: str,
    remedy: str,
) -> None:
    name = f"img{size[1]}x{size[2]}"
    if stack.client.get(f"/v1/datasets/{name}").status_code == 404:
        factories.dataset(stack, name)
        with stack.database.writing() as session:
            datasets.by_name(session, name).image_shape = list(size)
    before = _stored(stack)
    body = {"name": "toobig", "dataset": name, "architecture": architecture, "architecture_options": options}
    answer = stack.client.post("/v1/models", json={**body, "recipe": {"batch_size": 1}})
    _refused(stack, answer, 422, "invalid_request", before)
    answer = stack.client.post("/v1/models", json=body)
    _refused(stack, answer, 422, "invalid_request", before)
    (fault,) = answer.json()["errors"]
    assert (fault["pointer"], fault["code"], fault["value"]) == (pointer, "image_too_small", f"{size[1]}x{size[2]}")
    assert remedy in fault["detail"]


@pytest.mark.parametrize("cursor", ["nonsense", "MTp4", "!!!", "MTotMQ"])
def test_an_altered_cursor_is_refused(stack: Stack, cursor: str) -> None:
    before = _stored(stack)
    answer = stack.client.get("/v1/datasets/d/samples", params={"cursor": cursor})
    _refused(stack, answer, 422, "invalid_cursor", before)


def test_keys_are_needed_valid_and_scoped(stack: Stack) -> None:
    with httpx.Client(base_url=stack.base_url) as stranger:
        assert stranger.get("/healthz").status_code == 200
        before = _stored(stack)
        _refused(stack, stranger.get("/v1/datasets"), 401, "unauthenticated", before)
        wrong = {"Authorization": "Bearer ul_wrong"}
        _refused(stack, stranger.get("/v1/datasets", headers=wrong), 401, "unauthenticated", before)
    with stack.client_with("audit:read") as auditor:
        before = _stored(stack)
        assert auditor.get("/v1/audit/entries").status_code == 200
        _refused(stack, auditor.get("/v1/datasets"), 403, "forbidden", before)
        answer = auditor.post("/v1/deletion-requests", json={"dataset": "d", "sample_ids": ["d-train-0"]})
        _refused(stack, answer, 403, "forbidden", before)


def test_a_revoked_key_is_refused_at_once(stack: Stack) -> None:
    made = stack.client.post("/v1/api-keys", json={"name": "short", "scopes": ["datasets:read"]}).json()
    with httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {made['key']}"}) as client:
        assert client.get("/v1/datasets").status_code == 200
        assert stack.client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
        _refused(stack, client.get("/v1/datasets"), 401, "unauthenticated", _stored(stack))


@pytest.mark.parametrize(
    "path",
    ["/v1/datasets/x", "/v1/models/x", "/v1/models/m/versions/99", "/v1/deletion-requests/x", "/v1/jobs/x", "/nowhere"],
)
def test_what_is_not_there_is_a_problem_document(stack: Stack, path: str) -> None:
    answer = stack.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"].endswith("not_found")
