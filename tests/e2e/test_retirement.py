"""After a completed request on a real run: tainted weights are 410, their bytes nowhere, and the ledgers say so."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load, save
from sqlalchemy import select

from service.store.tables import Dataset, Sample
from tests.all_files import contents
from tests.stack import Stack, running

HEADERS = {"Content-Type": "application/vnd.safetensors"}
NOTHING_JUDGED: dict[str, Any] = {"gate": {"privacy": [], "bias": [], "confusion": []}}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A request that was completed, and what the tainted versions' weights were before it."""

    stack: Stack
    request: str
    weights: dict[str, bytes]
    ledger: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Two models of one dataset, one with an upload beside what was trained; references; then 25 samples go."""
    with running(tmp_path_factory.mktemp("retirement")) as stack:
        stack.register()
        policy = {**NOTHING_JUDGED, "prepare": ["importance_loss"], "reference_models": 2}
        stack.train("m", epochs=4, policy=policy)
        stack.train("beside", epochs=2)
        trained = stack.client.get("/v1/models/m/versions/1/weights").content
        moved = {
            name: tensor + 1e-3 if tensor.is_floating_point() else tensor for name, tensor in load(trained).items()
        }
        answer = stack.client.post("/v1/models/m/versions", content=save(moved), headers=HEADERS).raise_for_status()
        stack.wait(answer.headers["location"], lambda version: version["state"] == "active")
        stack.until(lambda: stack.client.get("/v1/models/m/versions/2").json()["prepared"] or None)
        asked = stack.client.post("/v1/models/m/prepare-audit").raise_for_status()
        assert stack.job(asked.json()["job"]["id"])["status"] == "completed"
        tainted = ("m/versions/1", "m/versions/2", "beside/versions/1")
        weights = {at: stack.client.get(f"/v1/models/{at}/weights").raise_for_status().content for at in tainted}
        request = stack.erase([*stack.ids(24), *stack.ids(1, split="test")], method_options={"epochs": 1})
        assert stack.completed(request["id"])["status"] == "completed"
        path = f"/v1/deletion-requests/{request['id']}/residuals"
        found = stack.wait(path, lambda ledger: ledger["waiting"] == 0)
        ledger = {item["artifact"] + "@" + str(item["sha256"]): item for item in found["items"]}
        yield Run(stack=stack, request=request["id"], weights=weights, ledger=ledger)


def test_every_tainted_version_answers_410(run: Run) -> None:
    for at in run.weights:
        for verb in (run.stack.client.get, run.stack.client.head):
            assert verb(f"/v1/models/{at}/weights").status_code == 410
        assert run.stack.client.get(f"/v1/models/{at}").json()["state"] == "purged"


def test_nothing_under_the_data_folder_holds_their_bytes_or_is_named_by_their_digests(run: Run) -> None:
    files = contents(run.stack.settings.data_dir)
    assert [path for path in files if "artifacts" in path.parts], "the successors are there"
    for path, content in files.items():
        for weights in run.weights.values():
            assert hashlib.sha256(weights).hexdigest() not in path.name
            # A piece from the middle of the tensors: neither the whole nor a part is left.
            assert weights[len(weights) // 2 : len(weights) // 2 + 256] not in content, path


def test_the_artifact_store_holds_no_digest_that_the_ledger_calls_purged(run: Run) -> None:
    purged = {item["sha256"] for item in run.ledger.values() if item["state"] == "purged"}
    assert len(purged) >= 5
    stored = {path.name for path in (run.stack.settings.data_dir / "artifacts").rglob("*") if path.is_file()}
    assert stored
    assert not purged & stored


def test_the_ledger_names_every_kind_of_artefact_that_held_the_samples(run: Run) -> None:
    ends = {(item["kind"], item["state"]) for item in run.ledger.values()}
    assert ends == {
        ("version", "purged"), ("preparation", "purged"), ("reference_logits", "purged"), ("cache", "overwritten"),
        ("source", "not_ours_to_delete"),
    }  # fmt: skip
    versions = {item["artifact"] for item in run.ledger.values() if item["kind"] == "version"}
    assert versions == {"model/m/version/1", "model/m/version/2", "model/beside/version/1"}


def test_each_step_of_the_ledger_is_an_entry_of_the_log(run: Run) -> None:
    entries = {item["seq"]: item for item in _pages(run.stack, "/v1/audit/entries")}
    for item in run.ledger.values():
        for step in item["steps"]:
            assert entries[step["seq"]]["action"] == step["action"]
    for item in run.ledger.values():
        if item["kind"] == "version":
            said = entries[item["steps"][-1]["seq"]]["payload"]
            assert (said["sha256"], said["bytes_absent"], said["store"]) == (item["sha256"], True, "file")


def _pages(stack: Stack, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 1000}
    while True:
        page = stack.client.get(path, params=params).raise_for_status().json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        params["cursor"] = page["next_cursor"]


def test_erased_images_are_zeros_in_the_cache_and_all_others_are_there(run: Run) -> None:
    with run.stack.database.reading() as session:
        dataset = session.scalars(select(Dataset)).one()
        erased = list(session.scalars(select(Sample.position).where(Sample.state == "erased")))
    images = np.load(_cache(run, dataset.id) / "images.npy", allow_pickle=False)
    assert len(erased) == 25
    assert not images[erased].any()
    assert np.delete(images, erased, axis=0).reshape(len(images) - 25, -1).any(axis=1).all()


def _cache(run: Run, dataset_id: str) -> Path:
    return run.stack.settings.data_dir / "cache" / dataset_id


def test_no_folder_of_an_attempt_is_left(run: Run) -> None:
    assert list((run.stack.settings.data_dir / "tmp").iterdir()) == []


@pytest.mark.parametrize("at", ["m/versions/1", "m/versions/2", "beside/versions/1"])
@pytest.mark.parametrize("model", ["m", "beside"])
def test_no_tainted_weights_come_back_as_they_were_or_saved_anew(run: Run, at: str, model: str) -> None:
    for content in (run.weights[at], save(load(run.weights[at]), metadata={"saved": "anew"})):
        answer = run.stack.client.post(f"/v1/models/{model}/versions", content=content, headers=HEADERS)
        assert (answer.status_code, answer.json()["code"]) == (409, "digest_retired")


def test_whoever_fetched_them_is_told_of_each(run: Run) -> None:
    told = [item for item in _pages(run.stack, "/v1/withdrawals") if item["reason"] == "retired"]
    assert {f"{item['model']}/versions/{item['version']}" for item in told} == set(run.weights)
    for item in told:
        done = run.stack.client.post(f"/v1/withdrawals/{item['id']}/acknowledge").raise_for_status().json()
        assert done["acknowledged_at"]
