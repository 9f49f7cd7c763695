"""Who may do what: every route but health needs a key, each its scope, and a key is worth nothing once it is over."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from service.auth import AREAS, SCOPES
from service.store import keys
from tests.stack import Stack, running

OPEN = {("get", "/healthz"), ("get", "/readyz")}
NEEDED = {
    ("get", "/metrics"): "metrics:read",
    ("get", "/v1/api-keys"): "admin",
    ("post", "/v1/api-keys"): "admin",
    ("delete", "/v1/api-keys/{key_id}"): "admin",
    ("post", "/v1/api-keys/{key_id}/rotate"): "admin",
    ("get", "/v1/audit/entries"): "audit:read",
    ("get", "/v1/audit/entries/{seq}/proof"): "audit:read",
    ("get", "/v1/audit/export"): "audit:read",
    ("get", "/v1/audit/state"): "audit:read",
    ("get", "/v1/audit/checkpoint"): "audit:read",
    ("get", "/v1/audit/consistency"): "audit:read",
    ("get", "/v1/audit/keys"): "audit:read",
    ("get", "/v1/audit/tile/{level}/{index}"): "audit:read",
    ("get", "/v1/audit/tile/entries/{index}"): "audit:read",
    ("get", "/v1/datasets"): "datasets:read",
    ("post", "/v1/datasets"): "datasets:write",
    ("get", "/v1/datasets/{name}"): "datasets:read",
    ("post", "/v1/datasets/{name}/reindex"): "datasets:write",
    ("get", "/v1/datasets/{name}/samples"): "datasets:read",
    ("get", "/v1/deletion-requests"): "requests:read",
    ("post", "/v1/deletion-requests"): "requests:write",
    ("get", "/v1/deletion-requests/{request_id}"): "requests:read",
    ("post", "/v1/deletion-requests/preview"): "requests:write",
    ("post", "/v1/deletion-requests/{request_id}/approve"): "approvals:write",
    ("delete", "/v1/deletion-requests/{request_id}"): "requests:write",
    ("post", "/v1/deletion-requests/{request_id}/receipt"): "requests:read",
    ("post", "/v1/deletion-requests/{request_id}/receipt/check"): "requests:read",
    ("post", "/v1/datasets/{name}/suppressions/check"): "suppressions:read",
    ("get", "/v1/deletion-requests/{request_id}/events"): "requests:read",
    ("get", "/v1/deletion-requests/{request_id}/residuals"): "audit:read",
    ("post", "/v1/deletion-requests/{request_id}/extension"): "requests:write",
    ("post", "/v1/deletion-requests/{request_id}/deny"): "requests:write",
    ("post", "/v1/deletion-requests/{request_id}/hold"): "requests:write",
    ("post", "/v1/deletion-requests/{request_id}/release"): "requests:write",
    ("get", "/v1/evaluations/{evaluation_id}"): "requests:read",
    ("get", "/v1/evaluations/schema"): "requests:read",
    ("get", "/v1/evaluations/{evaluation_id}/plots/{name}.svg"): "requests:read",
    ("get", "/v1/jobs/{job_id}"): "requests:read",
    ("post", "/v1/jobs/{job_id}/retry"): "admin",
    ("post", "/v1/jobs/{job_id}/approve"): "admin",
    ("get", "/v1/architectures"): "models:read",
    ("get", "/v1/methods"): "requests:read",
    ("get", "/v1/metrics"): "requests:read",
    ("get", "/v1/models"): "models:read",
    ("post", "/v1/models"): "models:write",
    ("get", "/v1/models/{name}"): "models:read",
    ("get", "/v1/models/{name}/versions"): "models:read",
    ("post", "/v1/models/{name}/versions"): "models:write",
    ("post", "/v1/models/{name}/prepare-audit"): "models:write",
    ("put", "/v1/models/{name}/policy"): "models:write",
    ("post", "/v1/models/{name}/versions/{number}/prepare"): "models:write",
    ("get", "/v1/models/{name}/versions/{number}"): "models:read",
    ("get", "/v1/models/{name}/versions/{number}/weights"): "weights:read",
    ("head", "/v1/models/{name}/versions/{number}/weights"): "weights:read",
    ("get", "/v1/models/{name}/versions/{number}/downloads"): "audit:read",
    ("post", "/v1/withdrawals/{withdrawal_id}/acknowledge"): "weights:read",
    ("get", "/v1/webhooks"): "webhooks:read",
    ("post", "/v1/webhooks"): "webhooks:write",
    ("get", "/v1/webhooks/events"): "webhooks:read",
    ("get", "/v1/webhooks/{webhook_id}"): "webhooks:read",
    ("patch", "/v1/webhooks/{webhook_id}"): "webhooks:write",
    ("delete", "/v1/webhooks/{webhook_id}"): "webhooks:write",
    ("post", "/v1/webhooks/{webhook_id}/rotate-secret"): "webhooks:write",
    ("post", "/v1/webhooks/{webhook_id}/test"): "webhooks:write",
    ("get", "/v1/webhooks/{webhook_id}/deliveries"): "webhooks:read",
    ("post", "/v1/webhooks/{webhook_id}/replay"): "webhooks:write",
    ("post", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/replay"): "webhooks:write",
}
EITHER = {
    ("get", "/v1/deletion-requests/{request_id}/certificate"): {"audit:read", "requests:read"},
    ("get", "/v1/deletion-requests/{request_id}/certificate.html"): {"audit:read", "requests:read"},
    ("get", "/v1/withdrawals"): {"audit:read", "weights:read"},
}
ANY_KEY = {("get", "/v1/schemas/unlearning-certificate/v1")}
BODIES = {
    "/v1/deletion-requests/{request_id}/receipt": {"sample_ids": ["x"]},
    "/v1/deletion-requests/{request_id}/receipt/check": {"receipt": {}},
    "/v1/datasets/{name}/suppressions/check": {"sample_ids": ["x"]},
    "/v1/api-keys": {"name": "k", "scopes": ["nonsense"]},
    "/v1/datasets": {"name": "d", "source": "npz", "path": "/nowhere"},
    "/v1/models": {"name": "m", "dataset": "nothing", "architecture": "small_cnn"},
    "/v1/deletion-requests": {"dataset": "nothing", "sample_ids": ["x"]},
    "/v1/deletion-requests/{request_id}/extension": {"months": 1, "reason": "x"},
    "/v1/deletion-requests/{request_id}/deny": {"reason": "no_match"},
    "/v1/deletion-requests/{request_id}/hold": {"reason": "x"},
    "/v1/deletion-requests/preview": {"dataset": "nothing", "sample_ids": ["x"]},
    "/v1/models/{name}/versions": {"train": True},
    "/v1/models/{name}/policy": {},
    "/v1/models/{name}/versions/{number}/prepare": {"prepare": ["importance_loss"]},
    "/v1/webhooks": {"url": "https://10.0.0.1/"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("access"), worker=False) as found:
        yield found


def _call(client: httpx.Client, method: str, path: str) -> httpx.Response:
    url = re.sub(r"\{\w+\}", "1", path)
    return client.request(method, url, json=BODIES.get(path) if method in ("post", "put") else None)


def test_the_table_of_this_test_is_the_services_routes(stack: Stack) -> None:
    paths = stack.client.get("/openapi.json").json()["paths"]
    served = {(method, path) for path, methods in paths.items() for method in methods}
    assert served == {*NEEDED, *EITHER, *ANY_KEY, *OPEN}


def test_health_alone_needs_no_key(stack: Stack) -> None:
    with httpx.Client(base_url=stack.base_url) as stranger:
        for method, path in OPEN:
            assert _call(stranger, method, path).status_code == 200
        for method, path in (*NEEDED, *EITHER, *ANY_KEY):
            answer = _call(stranger, method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"


def _scopes_without(scope: str) -> list[str]:
    """Every scope that is neither admin nor implies the one."""
    return sorted(SCOPES - {"admin", scope, scope.partition(":")[0]})


@pytest.mark.parametrize("scope", sorted(set(NEEDED.values())))
def test_each_route_asks_for_its_scope(stack: Stack, scope: str) -> None:
    with stack.client_with(*_scopes_without(scope)) as lacking, stack.client_with(scope) as having:
        for (method, path), needed in NEEDED.items():
            if needed != scope:
                continue
            answer = _call(lacking, method, path)
            assert answer.status_code == 403, (method, path)
            if method != "head":
                assert answer.json()["code"] == "forbidden"
            assert _call(having, method, path).status_code not in (401, 403), (method, path)


@pytest.mark.parametrize(("route", "scopes"), EITHER.items())
def test_a_route_that_takes_one_of_several_scopes_takes_each_and_no_other(
    stack: Stack, route: tuple[str, str], scopes: set[str]
) -> None:
    others = SCOPES - {"admin"} - scopes - {scope.partition(":")[0] for scope in scopes}
    with stack.client_with(*sorted(others)) as lacking:
        assert _call(lacking, *route).status_code == 403
    for scope in scopes:
        with stack.client_with(scope) as having:
            assert _call(having, *route).status_code not in (401, 403)


@pytest.mark.parametrize("area", AREAS)
def test_an_area_means_reading_and_writing(stack: Stack, area: str) -> None:
    with stack.client_with(area) as client:
        for (method, path), needed in NEEDED.items():
            allowed = _call(client, method, path).status_code not in (401, 403)
            assert allowed == (needed.partition(":")[0] == area), (method, path)


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic {key}", "{key}", "Bearer {key}x", "Bearer  x{key}", "Bearer \u00e9"],
)
def test_a_malformed_authorization_is_no_key(stack: Stack, header: str) -> None:
    given = header.format(key=stack.key("admin")).encode("latin-1")
    with httpx.Client(base_url=stack.base_url) as client:
        answer = client.get("/v1/datasets", headers=[(b"Authorization", given)])
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_key_ends_at_its_time(stack: Stack) -> None:
    now = datetime.now(UTC)
    with stack.database.writing() as session:
        _, past = keys.create(session, name="past", scopes=["admin"], expires_at=now - timedelta(seconds=1))
        _, later = keys.create(session, name="later", scopes=["admin"], expires_at=now + timedelta(hours=1))
    with httpx.Client(base_url=stack.base_url) as client:
        for key, status in ((past, 401), (later, 200)):
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == status


def test_a_keys_text_is_shown_once_and_stored_nowhere(stack: Stack) -> None:
    made = stack.client.post("/v1/api-keys", json={"name": "robot", "scopes": ["audit:read"]}).raise_for_status().json()
    listed = stack.client.get("/v1/api-keys", params={"limit": 1000})
    assert made["id"] in listed.text
    assert made["key"] not in listed.text
    with stack.database.reading() as session:
        for table in ("api_keys", "audit_entries", "events"):
            assert made["key"] not in repr(session.execute(text(f"SELECT * FROM {table}")).all())
    assert made["key"] not in stack.log.read_text()
    assert made["key"].startswith(made["prefix"])
    assert len(made["prefix"]) < 12


def test_revoking_twice_is_fine_and_audited_once(stack: Stack) -> None:
    made = stack.client.post("/v1/api-keys", json={"name": "gone", "scopes": ["audit"]}).json()
    for _ in range(2):
        assert stack.client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    entries = stack.client.get("/v1/audit/entries", params={"action": "key.revoked", "limit": 1000}).json()["items"]
    assert [entry["subject"] for entry in entries].count(f"key/{made['id']}") == 1
    assert stack.client.delete("/v1/api-keys/key_nobody").json()["code"] == "key_not_found"


@pytest.mark.parametrize("body", [{"name": "k", "scopes": ["everything"]}, {"name": "k", "scopes": []}, {"name": ""}])
def test_a_key_with_unknown_scopes_is_not_made(stack: Stack, body: dict[str, object]) -> None:
    before = len(stack.client.get("/v1/api-keys", params={"limit": 1000}).json()["items"])
    assert stack.client.post("/v1/api-keys", json=body).status_code == 422
    assert len(stack.client.get("/v1/api-keys", params={"limit": 1000}).json()["items"]) == before
