"""Who fetched a version, who is told when it leaves circulation, and who may say that it was given up."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from service import migrate
from service.lifecycle import VersionState
from service.store import audit, models, outbox, requests, versions, withdrawals
from service.store.session import make_engine
from service.store.tables import Recipient, Version
from tests import factories
from tests.servers import fresh_database
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("withdrawals"), worker=False, **settings) as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """A client with a key of its own, and that key's id."""

    http: httpx.Client
    key_id: str


@pytest.fixture
def fetchers(stack: Stack) -> Iterator[list[Fetcher]]:
    found = [_fetcher(stack) for _ in range(2)]
    yield found
    for each in found:
        each.http.close()


def _fetcher(stack: Stack) -> Fetcher:
    made = stack.client.post("/v1/api-keys", json={"name": "fetcher", "scopes": ["weights:read"]}).raise_for_status()
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    return Fetcher(http=httpx.Client(base_url=stack.base_url, headers=headers, timeout=30), key_id=made.json()["id"])


@pytest.fixture
def name(stack: Stack, request: pytest.FixtureRequest) -> str:
    found = "w" + str(abs(hash(request.node.nodeid)) % 10**9)
    factories.dataset(stack, found)
    factories.model(stack, found, of=found)
    factories.version(stack, found)
    return found


def _url(name: str) -> str:
    return f"/v1/models/{name}/versions/1/weights"


def _move(stack: Stack, name: str, state: VersionState, **payload: Any) -> None:
    with stack.database.writing() as session:
        versions.move(session, versions.get(session, models.by_name(session, name), 1), state, **payload)


def _mine(fetcher: Fetcher, name: str) -> list[dict[str, Any]]:
    items = fetcher.http.get("/v1/withdrawals").raise_for_status().json()["items"]
    return [item for item in items if item["model"] == name]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the data of what this process announces of withdrawals."""
    found: list[dict[str, Any]] = []
    announce = outbox.announce

    def listen(session: Session, event_type: str, data: dict[str, Any]) -> str:
        if event_type == "version.withdrawn":
            found.append(data)
        return announce(session, event_type, data)

    monkeypatch.setattr(outbox, "announce", listen)
    return found


def test_each_recipient_is_told_once_that_a_version_left_circulation(
    stack: Stack, name: str, fetchers: list[Fetcher], announced: list[dict[str, Any]]
) -> None:
    first, second = fetchers
    for _ in range(2):
        first.http.get(_url(name)).raise_for_status()
    second.http.get(_url(name), headers={"Range": "bytes=0-9"}).raise_for_status()
    _move(stack, name, VersionState.QUARANTINED, reason="deletion_request")
    _move(stack, name, VersionState.RETIRED, successor=2)
    assert sorted(event["recipient"] for event in announced) == sorted([first.key_id, second.key_id])
    (event,) = (event for event in announced if event["recipient"] == first.key_id)
    (listed,) = _mine(first, name)
    assert event["withdrawal"] == listed["id"]
    assert (event["version"], event["sha256"]) == (1, listed["sha256"])
    assert event["reason"] == listed["reason"] == "deletion_request"
    assert event["acknowledge"] == f"/v1/withdrawals/{listed['id']}/acknowledge"


def test_head_not_modified_and_a_range_outside_the_file_are_no_downloads(
    stack: Stack, name: str, fetchers: list[Fetcher]
) -> None:
    http = fetchers[0].http
    tag = http.head(_url(name)).headers["etag"]
    http.get(_url(name), headers={"If-None-Match": tag})
    http.get(_url(name), headers={"Range": "bytes=9999-"})
    assert _downloads(stack, name) == []
    _move(stack, name, VersionState.RETIRED)
    assert _mine(fetchers[0], name) == []


def _downloads(stack: Stack, name: str, **params: Any) -> list[dict[str, Any]]:
    answer = stack.client.get(f"/v1/models/{name}/versions/1/downloads", params=params).raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def test_the_download_ledger_says_who_fetched_which_bytes_when(
    stack: Stack, name: str, fetchers: list[Fetcher]
) -> None:
    tag = fetchers[0].http.get(_url(name)).headers["etag"]
    fetchers[1].http.get(_url(name), headers={"Range": "bytes=100-"})
    fetchers[1].http.get(_url(name), headers={"Range": "bytes=0-9", "If-Range": tag})
    found = _downloads(stack, name)
    assert [(item["key"], item["range"]) for item in found] == [
        (fetchers[0].key_id, None), (fetchers[1].key_id, "bytes=100-"), (fetchers[1].key_id, "bytes=0-9"),
    ]  # fmt: skip
    with stack.database.reading() as session:
        entries = audit.find(session, links={"version": f"{name}/1"}, actions=["version.downloaded"])
    assert [item["seq"] for item in found] == [entry.seq for entry in entries]
    page = stack.client.get(f"/v1/models/{name}/versions/1/downloads", params={"limit": 2}).json()
    assert [item["seq"] for item in _downloads(stack, name, cursor=page["next_cursor"])] == [found[2]["seq"]]


@pytest.mark.parametrize(
    "headers", [{"Range": "bytes=0-9", "If-Range": '"other"'}, {"Range": "bytes=5-2"}, {"Range": "lines=1-2"}]
)
def test_a_range_that_was_not_answered_is_not_recorded_as_one(
    stack: Stack, name: str, fetchers: list[Fetcher], headers: dict[str, str]
) -> None:
    answer = fetchers[0].http.get(_url(name), headers=headers)
    assert (answer.status_code, len(answer.content)) == (200, 4096)
    assert [item["range"] for item in _downloads(stack, name)] == [None]


def test_downloads_by_one_key_in_one_instant_all_count(stack: Stack, name: str, fetchers: list[Fetcher]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetchers[0].http.get(_url(name)).raise_for_status(), range(16)))
    with stack.database.reading() as session:
        version = versions.get(session, models.by_name(session, name), 1)
        assert session.get_one(Recipient, (version.id, fetchers[0].key_id)).downloads == 16


def test_only_the_recipient_acknowledges_and_twice_is_no_error(
    stack: Stack, name: str, fetchers: list[Fetcher]
) -> None:
    first, second = fetchers
    first.http.get(_url(name)).raise_for_status()
    _move(stack, name, VersionState.RETIRED)
    (listed,) = _mine(first, name)
    path = f"/v1/withdrawals/{listed['id']}/acknowledge"
    assert second.http.post(path).status_code == 404
    assert stack.client.post(path).status_code == 403, "an administrator sees it, but did not fetch the version"
    assert first.http.post("/v1/withdrawals/wdr_nothing/acknowledge").status_code == 404
    answers = [first.http.post(path).raise_for_status().json() for _ in range(2)]
    assert answers[0]["acknowledged_at"] is not None
    assert answers[0] == answers[1]
    with stack.database.reading() as session:
        (entry,) = audit.find(session, links={"version": f"{name}/1"}, actions=["version.withdrawal_acknowledged"])
    assert (entry.actor, json.loads(entry.payload)["withdrawal"]) == (first.key_id, listed["id"])


def test_a_key_sees_its_own_withdrawals_and_an_auditor_all(stack: Stack, name: str, fetchers: list[Fetcher]) -> None:
    for each in fetchers:
        each.http.get(_url(name)).raise_for_status()
    _move(stack, name, VersionState.RETIRED)
    assert [{item["recipient"] for item in _mine(each, name)} for each in fetchers] == [
        {each.key_id} for each in fetchers
    ]
    with stack.client_with("audit:read") as auditor:
        page = auditor.get("/v1/withdrawals", params={"limit": 1}).json()
        rest = auditor.get("/v1/withdrawals", params={"cursor": page["next_cursor"], "limit": 1}).json()
        assert {item["recipient"] for item in [*page["items"], *rest["items"]]} == {each.key_id for each in fetchers}
    with stack.client_with("models:read") as stranger:
        assert stranger.get("/v1/withdrawals").status_code == 403
        assert stranger.get(f"/v1/models/{name}/versions/1/downloads").status_code == 403


def test_a_version_that_serves_again_need_not_be_given_up(stack: Stack, name: str, fetchers: list[Fetcher]) -> None:
    fetchers[0].http.get(_url(name)).raise_for_status()
    _move(stack, name, VersionState.QUARANTINED, reason="deletion_request")
    _move(stack, name, VersionState.ACTIVE, reason="request_cancelled")
    (listed,) = _mine(fetchers[0], name)
    assert listed["lifted_at"] is not None
    _move(stack, name, VersionState.RETIRED)
    assert [item["lifted_at"] is None for item in _mine(fetchers[0], name)] == [True, False], "told anew"


def test_a_request_counts_who_was_told_and_who_acknowledged(stack: Stack, name: str, fetchers: list[Fetcher]) -> None:
    for each in fetchers:
        each.http.get(_url(name)).raise_for_status()
    body = {"dataset": name, "sample_ids": [f"{name}-train-0"], "method": "finetune"}
    request = stack.client.post("/v1/deletion-requests", json=body).raise_for_status().json()
    _move(stack, name, VersionState.RETIRED, job=request["jobs"][0]["id"])
    (listed,) = _mine(fetchers[1], name)
    fetchers[1].http.post(f"/v1/withdrawals/{listed['id']}/acknowledge").raise_for_status()
    with stack.database.reading() as session:
        found = withdrawals.counts_of_request(session, requests.get(session, request["id"]).id)
    assert (found.told, found.acknowledged) == (2, 1)


def test_no_recipient_is_missed_by_a_withdrawal_in_the_same_instant(
    stack: Stack, name: str, announced: list[dict[str, Any]]
) -> None:
    """Whoever got bytes of a version that is withdrawn is told, however close the two were."""
    for turn in range(3):
        row = factories.version(stack, name)
        url = f"/v1/models/{name}/versions/{row.number}/weights"
        found = [_fetcher(stack) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            answers = [pool.submit(each.http.get, url) for each in found]
            answers[turn].result()
            with stack.database.writing() as session:
                versions.move(session, session.get_one(Version, row.id), VersionState.RETIRED)
            sent = {each.key_id for each, answer in zip(found, answers, strict=True) if answer.result().is_success}
        told = {event["recipient"] for event in announced if event["version"] == row.number}
        assert told == sent
        for each in found:
            each.http.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_migrating_finds_the_recipients_of_earlier_downloads_in_the_log(
    kind: str, tmp_path: Path, postgres_url: str
) -> None:
    if kind == "sqlite":
        _check_migration(f"sqlite:///{tmp_path / 'earlier.db'}")
        return
    with fresh_database(postgres_url) as url:
        _check_migration(url)


def _check_migration(url: str) -> None:
    config = migrate.config(url)
    command.upgrade(config, "0012")
    engine = make_engine(url)
    with engine.begin() as connection:
        for statement in _EARLIER:
            connection.execute(text(statement))
        fetched = [
            ("m/1", "key_a", 3),
            ("m/1", "key_a", 7),
            ("m/1", "key_b", 5),
            ("m/11", "key_b", 6),
            ("x/1", "key_a", 8),
        ]
        for seq, (version, actor, minute) in enumerate(fetched):
            row = {"seq": seq, "at": f"2024-05-01T10:0{minute}:00.000000Z", "actor": actor, "ref": version}
            connection.execute(text(_ENTRY), row)
            connection.execute(text("INSERT INTO audit_links (kind, ref, seq) VALUES ('version', :ref, :seq)"), row)
    command.upgrade(config, "0013")
    with Session(engine) as session:
        rows = session.scalars(select(Recipient).order_by(Recipient.version_id, Recipient.principal_id)).all()
    engine.dispose()
    found = [(row.version_id, row.principal_id, row.downloads, row.first_at, row.last_at) for row in rows]
    at = [datetime(2024, 5, 1, 10, minute, tzinfo=UTC) for minute in range(10)]
    assert found == [
        ("v1", "key_a", 2, at[3], at[7]),
        ("v1", "key_b", 1, at[5], at[5]),
        ("v11", "key_b", 1, at[6], at[6]),
    ]


_EARLIER = (
    "INSERT INTO datasets (id, name, source, state, num_samples, num_classes, created_at) "
    "VALUES ('d', 'd', '{}', 'ready', 0, 0, '2024-05-01 10:00:00')",
    "INSERT INTO models (id, name, dataset_id, task, architecture, architecture_options, policy, created_at) "
    "VALUES ('m', 'm', 'd', 't', 'a', '{}', '{}', '2024-05-01 10:00:00')",
    *(
        "INSERT INTO versions (id, model_id, number, state, role, origin, sha256, size_bytes, training_samples, "
        f"created_at) VALUES ('v{n}', 'm', {n}, 'active', 'original', 'trained', 'x', 1, 0, '2024-05-01 10:00:00')"
        for n in (1, 11)
    ),
)
_ENTRY = (
    "INSERT INTO audit_entries (seq, time, actor, action, subject, payload, leaf_hash) "
    "VALUES (:seq, :at, :actor, 'version.downloaded', 's', '{}', 'x')"
)
