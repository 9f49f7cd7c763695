"""A populated database of the first schema comes to the newest: nothing is lost, and what was open goes on."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from alembic import command
from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError

from service import migrate
from service.artifacts import ArtifactStore
from service.errors import WrongStore
from service.evidence import merkle
from service.evidence.log_verification import verify_log
from service.evidence.notes import NoteKey
from service.own_artifacts import OwnArtifacts
from service.settings import Settings
from service.store.session import Database, make_engine
from tests import first_schema
from tests.first_schema import BULK, DOWNLOADS, ENTRIES, EXPIRED, MASTER, REFUSING, REVOKED, TEXT, First
from tests.stack import Stack, running
from workers import checkpoints
from workers.architectures import build
from workers.data import npz

TRAIN, HELD_OUT = 120, 20
EVALUATION_SECONDS = 240.0


def _source(path: Path) -> dict[str, Any]:
    """Write a dataset of two classes that a small network tells apart; return its digest and its samples."""
    generator = np.random.default_rng(0)
    pools = ["train"] * TRAIN + ["selection"] * HELD_OUT + ["audit"] * HELD_OUT + ["population"] * HELD_OUT
    splits = ["train"] * TRAIN + ["validation"] * HELD_OUT + ["test"] * 2 * HELD_OUT
    labels = np.arange(len(pools)) % 2
    images = generator.integers(0, 120, (len(pools), 8, 8), dtype=np.uint8) + (labels * 120)[:, None, None]
    ids = [f"d-{i}" for i in range(len(pools))]
    np.savez(path, sample_id=np.array(ids), image=images.astype(np.uint8), label=labels, split=np.array(splits))
    samples = [
        {"sample_id": each, "position": i, "split": splits[i], "pool": pools[i], "label": int(labels[i])}
        for i, each in enumerate(ids)
    ]
    return {"digest": npz.read({"path": str(path)}, [path.parent.resolve()]).digest(), "samples": samples}


def _weights(settings: Settings, path: Path) -> dict[str, Any]:
    checkpoints.save(build("small_cnn", {"width": 4}, image_shape=(1, 8, 8), num_classes=2, seed=0), path)
    return {"sha256": ArtifactStore(settings.resolved_artifacts_url).put(path), "size": path.stat().st_size}


def _adopt(settings: Settings) -> None:
    """Say that the store is the right one: of model n's versions in circulation there never were any bytes."""
    database = Database.open(settings)
    store = OwnArtifacts(settings.resolved_artifacts_url, database)
    with pytest.raises(WrongStore, match="lacks 3 of 4"):
        store.confirm()
    store.adopt(reason="bytes were lost", despite_missing=True)
    database.dispose()


class Upgraded:
    """What was, what is, and a service that runs on it."""

    stack: Stack
    first: First
    before: dict[str, list[tuple[Any, ...]]]
    after: dict[str, list[tuple[Any, ...]]]

    def get(self, path: str, **params: Any) -> Any:
        return self.stack.client.get(path, params=params).raise_for_status().json()

    def pages(self, path: str, **params: Any) -> list[Any]:
        items, cursor = [], None
        while True:
            page = self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            items += page["items"]
            if not (cursor := page.get("next_cursor")):
                return items


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def upgraded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upgraded]:
    folder = tmp_path_factory.mktemp("first")
    given = {"master_key": MASTER.hex(), "allowed_roots": str(folder)}
    if request.param == "postgresql":
        given["database_url"] = request.getfixturevalue("postgres_database_url")
    settings = Settings(data_dir=folder, **given)  # type: ignore[arg-type]
    url = settings.resolved_database_url
    command.upgrade(migrate.config(url), "0001")
    found = Upgraded()
    engine = make_engine(url)
    with engine.begin() as connection:
        source = folder / "d.npz"
        dataset, weights = _source(source), _weights(settings, folder / "weights")
        found.first = first_schema.fill(connection, source=source, dataset=dataset, weights=weights)
    with engine.connect() as connection:
        columns = first_schema.columns(connection)
        found.before = first_schema.rows(connection, columns)
    migrate.upgrade(url)
    with engine.connect() as connection:
        found.after = first_schema.rows(connection, columns)
    engine.dispose()
    _adopt(settings)
    with running(folder, worker=True, **given) as found.stack:
        found.stack.client.headers["Authorization"] = f"Bearer {TEXT}"
        yield found


def test_no_row_and_no_value_is_lost(upgraded: Upgraded) -> None:
    assert {name: len(rows) for name, rows in upgraded.after.items()} == {
        name: len(rows) for name, rows in upgraded.before.items()
    }
    assert len(upgraded.before["samples"]) == BULK + TRAIN + 3 * HELD_OUT
    assert len(upgraded.before["audit_entries"]) == ENTRIES
    for name, rows in upgraded.before.items():
        assert upgraded.after[name] == rows, name


def test_the_log_refuses_changes_still(upgraded: Upgraded) -> None:
    engine = upgraded.stack.database.engine
    statements = {
        "UPDATE": "UPDATE audit_entries SET actor = 'x' WHERE seq = 0",
        "DELETE": "DELETE FROM audit_entries WHERE seq = 0",
        "TRUNCATE": "TRUNCATE audit_entries CASCADE",
    }
    for event in REFUSING[make_url(upgraded.stack.settings.resolved_database_url).get_backend_name()]:
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statements[event])


def test_a_key_of_then_opens_what_it_did_and_one_that_was_over_opens_nothing(upgraded: Upgraded) -> None:
    def status(key: str) -> int:
        url = f"{upgraded.stack.base_url}/v1/models"
        return httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=60).status_code

    assert [status(key) for key in (TEXT, EXPIRED, REVOKED)] == [200, 401, 401]


def test_versions_that_were_out_stay_out(upgraded: Upgraded) -> None:
    def status(path: str) -> int:
        return upgraded.stack.client.get(f"/v1/models/{path}/weights").status_code

    assert [status(f"m/versions/{number}") for number in (1, 2)] == [410, 410]
    assert [status(f"n/versions/{number}") for number in (2, 3, 4, 5)] == [409, 403, 410, 410]


def test_the_downloads_of_then_are_counted(upgraded: Upgraded) -> None:
    with upgraded.stack.database.engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT version_id, principal_id, downloads FROM recipients").all()
    assert ("ver_m2", "key_old", DOWNLOADS) in [tuple(row) for row in found]


def test_the_log_verifies_and_its_old_entries_are_proven(upgraded: Upgraded) -> None:
    note = upgraded.stack.client.get("/v1/audit/checkpoint").raise_for_status().text
    lines = upgraded.stack.client.get("/v1/audit/export").raise_for_status().content.splitlines()
    trusted = [NoteKey.parse(key["verifier_key"]) for key in upgraded.get("/v1/audit/keys")["items"]]
    verify_log(lines[: int(note.splitlines()[1])], checkpoints=[note], trusted=trusted)
    for seq in (0, 1, 255, 256, ENTRIES - 1):
        proof = upgraded.get(f"/v1/audit/entries/{seq}/proof")
        assert proof["leaf_hash"] == upgraded.first.chained[seq]["leaf_hash"]
        leaf = hashlib.sha256(b"\x00" + proof["entry"].encode()).digest()
        path = [bytes.fromhex(step) for step in proof["path"]]
        root = bytes.fromhex(proof["root_hash"])
        merkle.verify_inclusion(leaf, seq=seq, size=proof["tree_size"], path=path, root=root)


def test_every_list_pages_through_what_was_there(upgraded: Upgraded) -> None:
    assert {each["name"] for each in upgraded.pages("/v1/datasets", limit=1)} == {"d", "bulk", "f"}
    assert {each["name"] for each in upgraded.pages("/v1/models", limit=1)} == {"m", "n"}
    assert len(upgraded.pages("/v1/models/n/versions", limit=4)) == 6
    requests = upgraded.pages("/v1/deletion-requests", limit=2)
    assert {each["id"] for each in requests} >= {"req_open", "req_done", "req_denied", "req_cancelled"}
    assert len(requests) == 2 + len(first_schema.REQUEST_STATES)
    assert len(upgraded.pages("/v1/datasets/bulk/samples", limit=1000)) == BULK - BULK // 10
    assert len(upgraded.pages("/v1/api-keys", limit=2)) >= 3
    entries = upgraded.pages("/v1/audit/entries", limit=1000)
    assert [each["seq"] for each in entries] == list(range(len(entries)))
    assert upgraded.get("/v1/evaluations/evl_1")["method"] == "retrain"
    for state in (*first_schema.JOB_ENDS, "running", "evaluating"):
        assert upgraded.get(f"/v1/jobs/job_{state}")["status"] == state
    assert upgraded.get("/v1/deletion-requests/req_done")["outcomes"]["erased"] == BULK // 10


def test_what_was_erased_is_known_as_erased(upgraded: Upgraded) -> None:
    body = {"sample_ids": ["bulk-0", "bulk-1"]}
    answer = upgraded.stack.client.post("/v1/datasets/bulk/suppressions/check", json=body).raise_for_status()
    assert answer.json()["suppressed"] == [True, False]


def test_a_request_that_was_open_is_completed_by_a_worker_and_has_receipts(upgraded: Upgraded) -> None:
    # An evaluation by today's default bounds: that takes a busy machine a while.
    over = ("completed", "failed", "on_hold")
    request = upgraded.stack.wait(
        "/v1/deletion-requests/req_open", lambda found: found["status"] in over, seconds=EVALUATION_SECONDS
    )
    assert (request["status"], request["outcomes"]["erased"]) == ("completed", 4)
    assert upgraded.stack.client.get("/v1/models/m/versions/3/weights").status_code == 410
    assert upgraded.get("/v1/models/m/versions/latest")["number"] == 4
    receipt = upgraded.stack.client.post("/v1/deletion-requests/req_open/receipt", json={"sample_ids": ["d-0", "d-9"]})
    assert [item["covered"] for item in receipt.raise_for_status().json()["items"]] == [True, False]


def test_a_request_completed_then_has_no_receipt_and_says_why(upgraded: Upgraded) -> None:
    body = {"sample_ids": ["bulk-0"]}
    answer = upgraded.stack.client.post("/v1/deletion-requests/req_done/receipt", json=body)
    assert (answer.status_code, answer.json()["code"]) == (410, "commitments_not_kept")
