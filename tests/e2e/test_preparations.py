"""What is prepared of a version over HTTP: kept while it may be used, used when the retain data has gone, then gone."""

from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from service.artifacts import ArtifactStore
from tests.stack import Stack, running

GATE: dict[str, Any] = {"gate": {"privacy": []}, "max_accuracy_drop": 50, "ladder": ["ssd", "mu_mis"]}


def _prepared(stack: Stack, number: int | str) -> dict[str, Any]:
    version = stack.client.get(f"/v1/models/m/versions/{number}").raise_for_status().json()
    return {file["name"]: file for file in version["prepared"]}


def test_what_is_prepared_serves_a_request_when_the_retain_data_has_gone_and_goes_with_its_version(
    tmp_path: Path,
) -> None:
    with running(tmp_path, worker=True) as stack:
        train = stack.register()["splits"]["train"]
        stack.train(epochs=4, policy={**GATE, "prepare": ["importance_loss"]})
        stack.until(lambda: _prepared(stack, 1) or None)
        asked = stack.client.post("/v1/models/m/versions/1/prepare", json={"prepare": ["teacher_logits"]})
        assert asked.status_code == 202
        assert stack.job(asked.json()["job"]["id"])["status"] == "completed"
        files = _prepared(stack, "latest")
        assert set(files) == {"importance_loss", "teacher_logits"}
        assert all(file["samples"] == train and file["seconds"] > 0 for file in files.values())

        artifacts = ArtifactStore(stack.settings.resolved_artifacts_url)
        path = artifacts.local_path(files["teacher_logits"]["sha256"])
        assert path is not None
        assert load_file(path)["logits"].shape == (train, 10)

        policy = {**GATE, "retain_data": "gone"}
        stack.client.put("/v1/models/m/policy", json=policy).raise_for_status()
        refused = stack.client.post("/v1/models/m/versions/1/prepare", json={"prepare": ["importance_output"]})
        assert (refused.status_code, refused.json()["code"]) == (409, "retain_data_gone")
        for route, body in (("versions", {"train": True}), ("prepare-audit", None)):
            barred = stack.client.post(f"/v1/models/m/{route}", json=body)
            assert (barred.status_code, barred.json()["code"]) == (409, "retain_data_gone")
        confused = {"dataset": "digits", "sample_ids": stack.ids(30), "method": "auto", "purpose": "confusion"}
        unserved = stack.client.post("/v1/deletion-requests", json=confused).json()
        assert [fault["code"] for fault in unserved["errors"]] == ["method_needs_not_met"]
        request = stack.erase(stack.ids(30), method="auto")
        done = stack.completed(request["id"])
        assert done["status"] == "completed", done
        job = stack.client.get(f"/v1/jobs/{done['jobs'][0]['id']}").json()
        assert [rung["method"] for rung in job["rungs"]] == ["ssd"]
        report = stack.client.get(f"/v1/evaluations/{job['evaluation_id']}").json()
        assert report["selection"]["importance"]["prepared"]
        used = files["importance_loss"]
        assert report["preparations"] == [{key: used[key] for key in ("name", "samples", "seconds")}]

        stack.wait("/v1/models/m/versions/1", lambda version: version["state"] == "purged")
        assert _prepared(stack, 1) == {}
        assert [artifacts.size(file["sha256"]) for file in files.values()] == [None, None]
        entries = stack.client.get("/v1/audit/entries", params={"action": "version.purged"}).json()["items"]
        assert [entry["payload"]["preparations_absent"] for entry in entries] == [2]
        # nothing was prepared of the version that followed, and nothing can be
        again = stack.client.post(
            "/v1/deletion-requests",
            json={"dataset": "digits", "sample_ids": stack.ids(30), "method": "ssd", "models": ["m"]},
        )
        assert [fault["code"] for fault in again.json()["errors"]] == ["method_needs_not_met"]
