"""The audit log as an auditor sees it: recomputable leaves, filters that narrow, pages that lose nothing."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings: dict[str, str] = {}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("audit"), worker=False, **settings) as found:
        for name in ("one", "two"):
            factories.dataset(found, name)
            factories.model(found, name, of=name)
            factories.version(found, name)
            found.erase([f"{name}-train-0"], dataset=name)
        found.client.get("/v1/models/one/versions/1/weights").raise_for_status()
        yield found


def _entries(stack: Stack, **params: Any) -> list[dict[str, Any]]:
    answer = stack.client.get("/v1/audit/entries", params={"limit": 1000, **params}).raise_for_status()
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def _canonical(value: Any) -> str:
    """RFC 8785 for documents without floats and astral keys: sorted names, no spaces, minimal escapes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{_canonical(key)}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float):
        assert value == int(value)
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


def test_every_leaf_hash_follows_from_the_six_fields_that_are_sent(stack: Stack) -> None:
    entries = _entries(stack)
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    for entry in entries:
        six = {name: entry[name] for name in ("seq", "time", "actor", "action", "subject", "payload")}
        assert set(entry) == {*six, "leaf_hash"}
        assert hashlib.sha256(b"\x00" + _canonical(six).encode()).hexdigest() == entry["leaf_hash"]


def test_times_never_run_backwards_within_one_actors_calls(stack: Stack) -> None:
    times = [entry["time"] for entry in _entries(stack)]
    assert all(time.endswith("Z") and len(time) == 27 for time in times)
    assert times == sorted(times)


@pytest.mark.parametrize(
    "params",
    [
        {"action": "request.accepted"},
        {"action": ["request.accepted", "model.registered"]},
        {"model": "one"},
        {"dataset": "two"},
        {"version": "one/1"},
        {"model": "one", "action": "version.downloaded"},
    ],
)
def test_a_filter_gives_just_what_it_names(stack: Stack, params: dict[str, Any]) -> None:
    found, everything = _entries(stack, **params), _entries(stack)
    assert 0 < len(found) < len(everything)
    wanted = params.get("action")
    if wanted:
        assert {entry["action"] for entry in found} <= set([wanted] if isinstance(wanted, str) else wanted)
    text_of = {"model": "model/{}", "dataset": "dataset/{}", "version": "model/{}"}
    for kind, form in text_of.items():
        if kind in params:
            subject = form.format(params[kind].replace("/", "/version/"))
            mine = [entry for entry in everything if entry["subject"].startswith(subject)]
            if wanted:
                mine = [entry for entry in mine if entry["action"] == wanted]
            assert {entry["seq"] for entry in mine} <= {entry["seq"] for entry in found}


def test_an_unknown_reference_finds_nothing(stack: Stack) -> None:
    for params in ({"model": "three"}, {"action": "no.such"}, {"actor": "nobody"}, {"request_id": "req_0"}):
        assert _entries(stack, **params) == []


def test_a_requests_story_is_found_by_its_id(stack: Stack) -> None:
    request = stack.client.get("/v1/deletion-requests", params={"dataset": "one"}).json()["items"][0]
    actions = [entry["action"] for entry in _entries(stack, request_id=request["id"])]
    assert actions[:2] == ["request.received", "request.accepted"]
    jobs = _entries(stack, job_id=request["jobs"][0]["id"])
    assert [entry["action"] for entry in jobs] == ["job.queued"]


def test_since_and_until_cut_the_log_in_two(stack: Stack) -> None:
    everything = _entries(stack)
    middle = everything[len(everything) // 2]["time"]
    before, after = _entries(stack, until=middle), _entries(stack, since=middle)
    assert before
    assert [entry["seq"] for entry in before + after] == [entry["seq"] for entry in everything]


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_pages_give_each_entry_once(stack: Stack, limit: int) -> None:
    seen: list[int] = []
    params: dict[str, Any] = {"limit": limit}
    while True:
        page = stack.client.get("/v1/audit/entries", params=params).raise_for_status().json()
        assert len(page["items"]) <= limit
        seen += [entry["seq"] for entry in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == [entry["seq"] for entry in _entries(stack)]
    assert [entry["seq"] for entry in _entries(stack, after=seen[2])] == seen[3:]


def test_the_triggers_that_refuse_changes_exist_at_head(stack: Stack) -> None:
    """Migrations in batches rebuild tables and drop their triggers without a word."""
    sqlite = stack.database.engine.dialect.name == "sqlite"
    query = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_entries'"
        if sqlite
        else "SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit_entries'::regclass AND NOT tgisinternal"
        " AND tgenabled = 'O'"
    )
    with stack.database.reading() as session:
        names = {row[0].lower() for row in session.execute(text(query))}
    events = {"update", "delete"} | (set() if sqlite else {"truncate"})
    assert names == {f"audit_entries_no_{event}" for event in events}


def test_no_entry_holds_a_sample_id(stack: Stack) -> None:
    assert "train-0" not in json.dumps(_entries(stack))
