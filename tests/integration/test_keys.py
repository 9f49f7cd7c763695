"""Keys over their life: rotation with an overlap, last use, expiry, and the commands; on both databases."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import event

from service.auth import SCOPES
from service.settings import Settings
from service.store import keys
from service.store.tables import ApiKey
from service.store.types import now
from tests import factories
from tests.stack import Stack, running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    url = request.getfixturevalue("postgres_database_url") if request.param == "postgresql" else ""
    with running(tmp_path_factory.mktemp("keys"), worker=False, database_url=url) as found:
        yield found


def _made(stack: Stack, *scopes: str, **extra: object) -> dict[str, str]:
    body = {"name": "robot", "scopes": scopes, **extra}
    answer: dict[str, str] = stack.client.post("/v1/api-keys", json=body).raise_for_status().json()
    return answer


def _status(stack: Stack, key: str, path: str = "/v1/models") -> int:
    return httpx.get(stack.base_url + path, headers={"Authorization": f"Bearer {key}"}).status_code


def _rotate(stack: Stack, key_id: str, **body: object) -> dict[str, str]:
    answer: dict[str, str] = stack.client.post(f"/v1/api-keys/{key_id}/rotate", json=body).raise_for_status().json()
    return answer


def test_after_a_rotation_both_secrets_are_valid_until_the_overlap_ends(stack: Stack) -> None:
    old = _made(stack, "models:read")
    new = _rotate(stack, old["id"], overlap_seconds=60)
    assert new["key"] != old["key"]
    assert (new["id"], new["scopes"], new["name"]) == (old["id"], old["scopes"], old["name"])
    assert new["key"].startswith(new["prefix"])
    assert [_status(stack, each["key"]) for each in (old, new)] == [200, 200]
    newest = _rotate(stack, old["id"], overlap_seconds=1)
    time.sleep(1.1)
    assert [_status(stack, each["key"]) for each in (old, new, newest)] == [401, 401, 200]


def test_without_an_overlap_the_old_secret_ends_at_once_and_a_second_rotation_ends_the_first_overlap(
    stack: Stack,
) -> None:
    first = _made(stack, "models:read")
    second = _rotate(stack, first["id"], overlap_seconds=0)
    assert [_status(stack, each["key"]) for each in (first, second)] == [401, 200]
    third = _rotate(stack, first["id"])
    fourth = _rotate(stack, first["id"])
    assert [_status(stack, each["key"]) for each in (second, third, fourth)] == [401, 200, 200]


def test_a_revocation_ends_both_secrets(stack: Stack) -> None:
    old = _made(stack, "models:read")
    new = _rotate(stack, old["id"])
    stack.client.delete(f"/v1/api-keys/{old['id']}").raise_for_status()
    assert [_status(stack, each["key"]) for each in (old, new)] == [401, 401]


def test_an_overlap_outlives_no_expiry(stack: Stack) -> None:
    with stack.database.writing() as session:
        row, text = keys.create(session, name="short", scopes=["models:read"], expires_at=now() + timedelta(minutes=1))
    new = _rotate(stack, row.id, overlap_seconds=3600)
    with stack.database.writing() as session:
        session.get_one(ApiKey, row.id).expires_at = now() - timedelta(seconds=1)
    assert [_status(stack, text), _status(stack, new["key"])] == [401, 401]
    again = stack.client.post(f"/v1/api-keys/{row.id}/rotate", json={})
    assert (again.status_code, again.json()["code"]) == (409, "key_expired")


def test_what_was_the_keys_stays_the_keys_through_a_rotation(stack: Stack) -> None:
    factories.dataset(stack, "d")
    factories.model(stack, "m")
    factories.version(stack, "m")
    old = _made(stack, "requests")
    body = {"dataset": "d", "sample_ids": ["d-train-0"], "method": "finetune"}

    def ask(key: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": "one"}
        return httpx.post(stack.base_url + "/v1/deletion-requests", json=body, headers=headers)

    first, again = ask(old["key"]), ask(_rotate(stack, old["id"])["key"])
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]


def test_a_rotation_is_in_the_log_without_a_secret(stack: Stack) -> None:
    old = _made(stack, "models:read")
    new = _rotate(stack, old["id"], overlap_seconds=60)
    items = stack.client.get("/v1/audit/entries", params={"action": "key.rotated", "limit": 1000}).json()["items"]
    (entry,) = [item for item in items if item["subject"] == f"key/{old['id']}"]
    assert entry["payload"] == {"overlap_seconds": 60}
    assert new["key"] not in stack.client.get("/v1/api-keys", params={"limit": 1000}).text


@pytest.mark.parametrize(
    ("body", "code"),
    [({"overlap_seconds": -1}, 422), ({"overlap_seconds": 10**9}, 422), ({"overlap": 5}, 422), ([], 422)],
)
def test_an_overlap_out_of_bounds_is_refused_and_changes_nothing(stack: Stack, body: object, code: int) -> None:
    made = _made(stack, "models:read")
    assert stack.client.post(f"/v1/api-keys/{made['id']}/rotate", json=body).status_code == code
    assert _status(stack, made["key"]) == 200


def test_a_revoked_or_unknown_key_cannot_be_rotated(stack: Stack) -> None:
    made = _made(stack, "models:read")
    stack.client.delete(f"/v1/api-keys/{made['id']}").raise_for_status()
    for key_id, status, code in ((made["id"], 409, "key_revoked"), ("key_nobody", 404, "key_not_found")):
        answer = stack.client.post(f"/v1/api-keys/{key_id}/rotate", json={})
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_only_admin_makes_or_rotates_keys_whatever_else_a_key_may(stack: Stack) -> None:
    mine = _made(stack, *sorted(SCOPES - {"admin"}))
    with httpx.Client(base_url=stack.base_url, headers={"Authorization": f"Bearer {mine['key']}"}) as client:
        for answer in (
            client.post("/v1/api-keys", json={"name": "k", "scopes": ["admin"]}),
            client.post("/v1/api-keys", json={"name": "k", "scopes": ["models:read"]}),
            client.post(f"/v1/api-keys/{mine['id']}/rotate", json={}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_key_that_would_be_over_already_is_not_made(stack: Stack) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    answer = stack.client.post("/v1/api-keys", json={"name": "k", "scopes": ["audit"], "expires_at": past})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/expires_at"


@pytest.mark.parametrize("quotas", [{"requests_per_day": 0}, {"samples": 5}, {"sample_ids_per_day": "many"}])
def test_quotas_that_make_no_sense_are_refused(stack: Stack, quotas: dict[str, object]) -> None:
    answer = stack.client.post("/v1/api-keys", json={"name": "k", "scopes": ["requests"], "quotas": quotas})
    assert answer.status_code == 422


def test_a_key_is_looked_up_in_one_statement_whichever_secret_it_is(stack: Stack) -> None:
    old = _made(stack, "models:read")
    new = _rotate(stack, old["id"])
    statements: list[str] = []
    event.listen(stack.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for each in (old, new):
        statements.clear()
        with stack.database.looking_up() as connection:
            found = keys.find(connection, each["key"])
        assert found is not None
        assert found.id == old["id"]
        assert len(statements) == 1


def test_a_later_use_is_never_overwritten_by_an_earlier_one(stack: Stack) -> None:
    made = _made(stack, "models:read")
    later, earlier = now(), now() - timedelta(hours=1)
    for moment in (later, earlier):
        with stack.database.writing() as session:
            keys.note_use(session, {made["id"]: moment})
    with stack.database.reading() as session:
        assert session.get_one(ApiKey, made["id"]).last_used_at == later


def test_a_process_writes_the_last_use_down_when_it_ends_at_the_latest(stack: Stack) -> None:
    with running(stack.settings.data_dir, worker=False, database_url=stack.settings.database_url) as other:
        key = _made(other, "models:read")
        before = datetime.now(UTC)
        assert _status(other, key["key"]) == 200
        with other.database.reading() as session:
            assert session.get_one(ApiKey, key["id"]).last_used_at is None, "a read writes nothing"
        other.api.terminate()
        other.api.wait(30)
        with other.database.reading() as session:
            used = session.get_one(ApiKey, key["id"]).last_used_at
    assert used is not None
    assert before <= used <= datetime.now(UTC)


def _command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "UNLEARN_DATA_DIR": str(settings.data_dir), "UNLEARN_DATABASE_URL": settings.database_url}
    command = [sys.executable, "-m", "service.cli", "keys", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_keys_are_listed_rotated_and_revoked_from_the_command_line(stack: Stack) -> None:
    made = _made(stack, "models:read")
    listed = _command(stack.settings, "list").stdout
    (line,) = [line for line in listed.splitlines() if line.startswith(made["id"])]
    assert line.split("\t")[1:4] == ["robot", made["prefix"], "models:read"]
    assert line.endswith("active")
    rotated = _command(stack.settings, "rotate", made["id"], "--overlap-seconds", "0").stdout.strip()
    assert [_status(stack, key) for key in (made["key"], rotated)] == [401, 200]
    assert _command(stack.settings, "revoke", made["id"]).returncode == 0
    assert _status(stack, rotated) == 401
    again = _command(stack.settings, "rotate", made["id"])
    assert (again.returncode, again.stdout) == (1, "")
    assert "revoked" in again.stderr
    assert "no such API key" in _command(stack.settings, "revoke", "key_nobody").stderr
