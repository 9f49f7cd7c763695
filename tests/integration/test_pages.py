"""Every list can be walked to its end, by `next_cursor` or by the Link header, and each row comes once."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from service.app import create_app
from service.schemas.common import Page
from service.store import audit, keys, models, versions
from service.store.tables import WebhookDelivery, WebhookEndpoint, WebhookEvent, Withdrawal
from tests import factories
from tests.stack import Stack, running

LISTS: dict[str, dict[str, Any]] = {
    "/v1/datasets": {},
    "/v1/datasets/d0/samples": {"split": "train", "label": 3},
    "/v1/models": {},
    "/v1/models/m0/versions": {},
    "/v1/deletion-requests": {"dataset": "d0"},
    "/v1/audit/entries": {"action": ["model.registered", "request.accepted"], "since": "2020-01-01T00:00:00+02:00"},
    "/v1/audit/state": {"at": "2999-01-01T00:00:00Z", "model": "m0"},
    "/v1/api-keys": {},
    "/v1/models/m0/versions/1/downloads": {},
    "/v1/withdrawals": {},
    "/v1/webhooks": {},
    "/v1/webhooks/w0/deliveries": {"state": "delivered"},
}
NAMED = {"d0": "{name}", "m0": "{name}", "1": "{number}", "w0": "{webhook_id}"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("pages"), worker=False, **settings) as found:
        for i in range(5):
            factories.dataset(found, f"d{i}")
            factories.model(found, f"m{i}", of="d0")
            factories.version(found, "m0")
            found.erase([f"d0-train-{i}"], dataset="d0")
            found.key("audit:read")
        with found.database.writing() as session:
            _fetched_and_told(session)
        yield found


def _fetched_and_told(session: Session) -> None:
    """Add downloads of a version, withdrawals of it, and webhooks that are disabled, one with deliveries."""
    model = models.by_name(session, "m0")
    version = versions.get(session, model, 1)
    key, _ = keys.create(session, name="receiver", scopes=["admin"])
    for i in range(5):
        fetched = {"sha256": version.sha256, "range": None}
        audit.record(session, "version.downloaded", subject="m0/1", payload=fetched, links={"version": "m0/1"})
        gone = {"version_id": version.id, "principal_id": key.id, "reason": "retired"}
        session.add(Withdrawal(id=f"wdr_{i}", event_id=f"evt_{i}", **gone))
        told = {"url": "https://example.com/", "events": ["*"], "description": "", "secret": b"s"}
        session.add(WebhookEndpoint(id=f"w{i}", key_id=key.id, enabled=False, **told))
        session.add(WebhookEvent(id=f"evt_{i}", type="request.accepted", data={}, fanned_out=True))
    session.flush()
    for i in range(5):
        session.add(WebhookDelivery(id=f"dlv_{i}", event_id=f"evt_{i}", endpoint_id="w0", state="delivered"))


def _by_cursor(client: httpx.Client, path: str, params: dict[str, Any], name: str = "cursor") -> list[Any]:
    items: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(path, params={**params, **cursor, "limit": 2}).raise_for_status().json()
        assert len(page["items"]) <= 2
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = {name: page["next_cursor"]}


def _by_link(client: httpx.Client, path: str, params: dict[str, Any]) -> list[Any]:
    answer = client.get(path, params={**params, "limit": 2}).raise_for_status()
    items: list[Any] = answer.json()["items"]
    while "link" in answer.headers:
        assert re.fullmatch(r'<[^<>"\s]+>; rel="next"', answer.headers["link"])
        answer = client.get(answer.url.join(answer.links["next"]["url"])).raise_for_status()
        items += answer.json()["items"]
    assert answer.json()["next_cursor"] is None
    return items


@pytest.mark.parametrize("walk", [_by_cursor, _by_link])
@pytest.mark.parametrize("path", LISTS)
def test_walking_gives_each_row_once_and_keeps_the_filters(
    stack: Stack, path: str, walk: Callable[..., list[Any]]
) -> None:
    whole = stack.client.get(path, params={**LISTS[path], "limit": 1000}).raise_for_status().json()
    assert whole["next_cursor"] is None
    assert len(whole["items"]) >= 5
    assert walk(stack.client, path, LISTS[path]) == whole["items"]


def test_the_audit_log_goes_on_after_a_seq_or_after_the_cursor_it_gave(stack: Stack) -> None:
    path = "/v1/audit/entries"
    whole = stack.client.get(path, params={"limit": 1000}).json()["items"]
    assert _by_cursor(stack.client, path, {}, name="after") == whole
    assert _by_cursor(stack.client, path, {"after": 3}) == whole[4:]
    assert _by_link(stack.client, path, {"after": 3}) == whole[4:]
    assert stack.client.get(path, params={"after": -1, "limit": 1000}).json()["items"] == whole
    assert stack.client.get(path, params={"after": whole[-1]["seq"]}).json()["items"] == []


@pytest.mark.parametrize("after", ["x", "-2", "1.5", "MTp4", "9" * 30, ""])
def test_what_is_neither_a_seq_nor_a_cursor_is_refused(stack: Stack, after: str) -> None:
    answer = stack.client.get("/v1/audit/entries", params={"after": after})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/after")


def test_no_other_answer_has_a_link(stack: Stack) -> None:
    for path in ("/v1/models/m0", "/v1/methods", "/healthz", "/v1/models?limit=0", "/v1/nothing"):
        assert "link" not in stack.client.get(path).headers


def test_every_list_is_walked_here(stack: Stack) -> None:
    paths = create_app(stack.settings).openapi()["paths"]
    pages = {path for path, verbs in paths.items() if "cursor" in str(verbs.get("get", {}).get("parameters"))}
    known = {"/".join(NAMED.get(part, part) for part in path.split("/")) for path in LISTS}
    assert pages == known
    assert Page.model_fields["next_cursor"].annotation == str | None
