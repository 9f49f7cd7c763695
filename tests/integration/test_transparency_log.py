"""The log as an auditor's client sees it over HTTP: read by the C2SP text alone, proven, exported, asked about then."""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from service.evidence import merkle
from service.evidence.log_verification import verify_log
from service.evidence.notes import NoteKey
from service.store import audit
from tests import factories
from tests.stack import Stack, running
from tests.unit.test_merkle import _mth
from tests.unit.test_notes import c2sp_read

ORIGIN = "log.example.com/v1/audit"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"log_origin": ORIGIN}
    if request.param == "postgresql":
        settings["database_url"] = request.getfixturevalue("postgres_database_url")
    with running(tmp_path_factory.mktemp("log"), worker=False, **settings) as found:
        for name in ("one", "two"):
            factories.dataset(found, name)
            factories.model(found, name, of=name)
            factories.version(found, name)
            found.erase([f"{name}-train-0"], dataset=name)
        _append(found, 550)
        yield found


def _append(stack: Stack, count: int) -> None:
    with stack.database.writing() as session:
        for i in range(count):
            audit.record(session, "test.done", subject=f"test/{i}", payload={"i": i, "name": "café"})


def _get(stack: Stack, path: str, **params: Any) -> Any:
    return stack.client.get(f"/v1/audit/{path}", params=params)


def _ok(stack: Stack, path: str, **params: Any) -> Any:
    return _get(stack, path, **params).raise_for_status().json()


def _checkpoint(stack: Stack) -> tuple[int, bytes]:
    answer = _get(stack, "checkpoint").raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; charset=utf-8")
    key = bytes.fromhex(_ok(stack, "keys")["items"][-1]["public_key"])
    origin, size, root = c2sp_read(answer.text, ORIGIN, key)
    assert origin == ORIGIN
    return size, root


def _tile_path(number: int) -> str:
    """c2sp.org/tlog-tiles: three-digit groups, x before all but the last."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


def _bundles(stack: Stack, size: int) -> list[bytes]:
    entries: list[bytes] = []
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        path = f"tile/entries/{_tile_path(number)}" + (f".p/{width}" if width < 256 else "")
        answer = _get(stack, path).raise_for_status()
        assert answer.headers["content-type"] == "application/octet-stream"
        data = answer.content
        while data:
            length = int.from_bytes(data[:2])
            assert len(data) >= 2 + length
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        assert len(entries) == number * 256 + width
    return entries


def test_a_client_written_from_the_specification_rebuilds_the_tree(stack: Stack) -> None:
    size, root = _checkpoint(stack)
    assert size > 512
    entries = _bundles(stack, size)
    leaves = [hashlib.sha256(b"\x00" + entry).digest() for entry in entries]
    assert _mth(leaves) == root
    level, hashes = 0, leaves
    while hashes:
        for number in range(-(-len(hashes) // 256)):
            row = hashes[number * 256 : (number + 1) * 256]
            path = f"tile/{level}/{_tile_path(number)}" + (f".p/{len(row)}" if len(row) < 256 else "")
            answer = _get(stack, path).raise_for_status()
            assert answer.content == b"".join(row)
            assert answer.headers["content-type"] == "application/octet-stream"
            assert "immutable" in answer.headers["cache-control"]
        hashes = [_mth(hashes[i : i + 256]) for i in range(0, len(hashes) - 255, 256)]
        level += 1
    assert level == 2


def test_a_bundles_entry_is_the_canonical_form_of_the_entry(stack: Stack) -> None:
    size, _ = _checkpoint(stack)
    listed = _ok(stack, "entries", limit=1000)["items"]
    for entry, raw in zip(listed[:size], _bundles(stack, size), strict=True):
        parsed = json.loads(raw)
        assert parsed == {name: value for name, value in entry.items() if name != "leaf_hash"}
        assert raw == json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("tile/0/009", 404, "tile_not_found"),
        ("tile/0/002", 404, "tile_not_found"),
        ("tile/3/000", 404, "tile_not_found"),
        ("tile/entries/009", 404, "tile_not_found"),
        ("tile/entries/x999/x999/999", 404, "tile_not_found"),
        ("tile/entries/x999/x999/x999/x999/x999/999", 404, "tile_not_found"),
        ("tile/0/x999/x999/x999/x999/x999/x999/999", 404, "tile_not_found"),
        ("tile/0/9", 422, "invalid_tile_path"),
        ("tile/0/x000/001", 422, "invalid_tile_path"),
        ("tile/6/000", 422, "invalid_tile_path"),
        ("tile/00/000", 422, "invalid_tile_path"),
        ("tile/0/000.p/0", 422, "invalid_tile_path"),
        ("tile/0/000.p/256", 422, "invalid_tile_path"),
        ("tile/0/000.p/01", 422, "invalid_tile_path"),
        ("tile/entries/000.p/x", 422, "invalid_tile_path"),
        ("tile/entries/" + "x999/" * 20 + "999", 422, "invalid_tile_path"),
    ],
)
def test_what_is_no_tile_or_not_there_yet_has_a_clear_problem(stack: Stack, path: str, status: int, code: str) -> None:
    answer = _get(stack, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_entry_is_proven_to_be_in_a_checkpoint(stack: Stack) -> None:
    size, root = _checkpoint(stack)
    for seq in (0, 255, 256, size - 1):
        proof = _ok(stack, f"entries/{seq}/proof")
        assert (proof["seq"], proof["tree_size"], proof["root_hash"]) == (seq, size, root.hex())
        assert proof["checkpoint"] == _get(stack, "checkpoint").text
        leaf = hashlib.sha256(b"\x00" + proof["entry"].encode()).digest()
        assert (
            leaf.hex() == proof["leaf_hash"] == _ok(stack, "entries", after=seq - 1, limit=1)["items"][0]["leaf_hash"]
        )
        path = [bytes.fromhex(step) for step in proof["path"]]
        merkle.verify_inclusion(leaf, seq=seq, size=size, path=path, root=root)


def test_one_checkpoint_is_proven_to_extend_another(stack: Stack) -> None:
    old, old_root = _checkpoint(stack)
    _append(stack, 3)
    new, new_root = _checkpoint(stack)
    assert new == old + 3
    proof = _ok(stack, "consistency", **{"from": old, "to": new})
    assert _ok(stack, "consistency", **{"from": old}) == proof
    assert (proof["from_root"], proof["to_root"]) == (old_root.hex(), new_root.hex())
    assert base64.b64encode(old_root).decode() in proof["from_checkpoint"]
    assert proof["to_checkpoint"] == _get(stack, "checkpoint").text
    path = [bytes.fromhex(step) for step in proof["path"]]
    merkle.verify_consistency(old=old, new=new, old_root=old_root, new_root=new_root, path=path)
    assert _ok(stack, "entries/0/proof", size=old)["tree_size"] == old
    refused = _get(stack, f"entries/{old}/proof", size=old)
    assert (refused.status_code, refused.json()["code"]) == (404, "beyond_checkpoint")


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("entries/99999999/proof", {}, 404, "beyond_checkpoint"),
        ("entries/0/proof", {"size": 99_999_999}, 404, "checkpoint_not_found"),
        ("entries/-1/proof", {}, 422, "invalid_request"),
        ("entries/0/proof", {"size": 0}, 422, "invalid_request"),
        ("consistency", {"from": 1, "to": 99_999_999}, 404, "beyond_checkpoint"),
        ("consistency", {"from": 99_999_999}, 404, "beyond_checkpoint"),
        ("consistency", {"from": 3, "to": 2}, 422, "invalid_request"),
        ("consistency", {"from": 0}, 422, "invalid_request"),
        ("consistency", {}, 422, "invalid_request"),
        ("state", {"at": "2026-01-01T00:00:00Z"}, 422, "invalid_request"),
        ("state", {"at": "2026-01-01T00:00:00Z", "model": "one", "request_id": "r"}, 422, "invalid_request"),
        ("state", {"at": "2026-01-01T00:00:00", "model": "one"}, 422, "invalid_request"),
        ("state", {"model": "one"}, 422, "invalid_request"),
    ],
)
def test_what_cannot_be_proven_or_asked_has_a_clear_problem(
    stack: Stack, path: str, params: dict[str, Any], status: int, code: str
) -> None:
    answer = _get(stack, path, **params)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_keys_are_listed_as_log_clients_take_them(stack: Stack) -> None:
    _checkpoint(stack)
    keys = _ok(stack, "keys")
    assert keys["origin"] == ORIGIN
    for key in keys["items"]:
        read = NoteKey.parse(key["verifier_key"])
        assert (read.name, read.public_key.hex()) == (ORIGIN, key["public_key"])
        assert key["key_id"] == hashlib.sha256(bytes.fromhex(key["public_key"])).hexdigest()
        (added,) = [
            entry["payload"]
            for entry in _ok(stack, "entries", action="signing_key.added")["items"]
            if entry["subject"] == f"signing-key/{key['key_id']}"
        ]
        assert added["public_key"] == key["public_key"]


def test_the_export_is_the_list_of_entries_and_verifies_offline(stack: Stack) -> None:
    note = _get(stack, "checkpoint").text
    answer = _get(stack, "export").raise_for_status()
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert "content-length" not in answer.headers, "streamed"
    lines = answer.content.splitlines()
    assert [json.loads(line) for line in lines] == _ok(stack, "entries", limit=1000)["items"]
    trusted = [NoteKey.parse(key["verifier_key"]) for key in _ok(stack, "keys")["items"]]
    verify_log(lines, checkpoints=[note], trusted=trusted)


@pytest.mark.parametrize("params", [{"model": "one"}, {"action": ["test.done", "model.registered"]}, {"dataset": "no"}])
def test_the_export_takes_the_filters_of_the_list(
    stack: Stack, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = _get(stack, "export", **params).raise_for_status().content.splitlines()
    assert [json.loads(line) for line in lines] == _ok(stack, "entries", limit=1000, **params)["items"]


def test_the_state_then_follows_each_entry_of_the_story(stack: Stack) -> None:
    request = stack.erase(["one-train-3"], dataset="one")["id"]
    stack.client.delete(f"/v1/deletion-requests/{request}").raise_for_status()
    story = _ok(stack, "entries", request_id=request)["items"]
    moves = {"request.received": "received", "request.accepted": "accepted", "request.cancelled": "cancelled"}
    told = [entry for entry in story if entry["action"] in moves]
    assert len(told) >= 3
    for entry in told:
        (state,) = _ok(stack, "state", at=entry["time"], request_id=request)["items"]
        later = [each for each in told if each["time"] == entry["time"]][-1]
        assert state == {
            "subject": f"deletion-request/{request}",
            "state": moves[later["action"]],
            "since": later["time"],
            "seq": later["seq"],
            "action": later["action"],
        }
    assert _ok(stack, "state", at="2020-01-01T00:00:00Z", request_id=request)["items"] == []


def test_the_state_of_a_model_now_is_what_its_versions_and_requests_say(stack: Stack) -> None:
    states = {
        item["subject"]: item["state"] for item in _ok(stack, "state", at="2999-01-01T00:00:00Z", model="one")["items"]
    }
    versions = stack.client.get("/v1/models/one/versions").json()["items"]
    requests = stack.client.get("/v1/deletion-requests", params={"dataset": "one"}).json()["items"]
    expected = {f"model/one/version/{each['number']}": each["state"] for each in versions}
    expected |= {f"deletion-request/{each['id']}": each["status"] for each in requests}
    assert states == expected
    first = _ok(stack, "state", at="2999-01-01T00:00:00Z", model="one", limit=1)
    rest = _ok(stack, "state", at="2999-01-01T00:00:00Z", model="one", cursor=first["next_cursor"])
    assert {item["subject"] for item in first["items"] + rest["items"]} == set(expected)


def test_an_altered_cursor_is_refused(stack: Stack) -> None:
    cursor = _ok(stack, "entries", limit=2)["next_cursor"]
    assert _get(stack, "entries", cursor=cursor).status_code == 200
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at in range(len(cursor)):
        other = alphabet[(alphabet.index(cursor[at]) + 1) % 64]
        for altered in (cursor[:at] + other + cursor[at + 1 :], cursor[:at], cursor[: at + 1] + "=" + cursor[at + 1 :]):
            answer = _get(stack, "entries", cursor=altered)
            assert answer.status_code == 422, altered
            assert answer.json()["code"] == "invalid_cursor"
            assert answer.json()["errors"][0]["pointer"] == "/cursor"


def test_every_route_of_the_log_needs_the_scope(stack: Stack) -> None:
    paths = ("checkpoint", "tile/0/000", "tile/entries/000", "entries/0/proof", "consistency?from=1", "keys", "export")
    with stack.client_with("datasets", "models", "requests", "weights") as outsider:
        for path in (*paths, "state?at=2026-01-01T00:00:00Z&model=one"):
            assert outsider.get(f"/v1/audit/{path}").status_code == 403
    with stack.client_with("audit:read") as auditor:
        for path in paths:
            assert auditor.get(f"/v1/audit/{path}").status_code == 200
