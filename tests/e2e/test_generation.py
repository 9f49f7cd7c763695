"""A model that draws digits, over HTTP: trained, made to forget a class, then single samples, certified, uploaded."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service.evidence import verify
from service.store import signing_keys
from tests.stack import Stack, running

TINY: dict[str, Any] = {
    "architecture": "ddpm_unet_small",
    "architecture_options": {"width": 8, "width_factors": [1], "attention_levels": []},
    "task": "generation",
    "recipe": {"epochs": 2, "batch_size": 128},
}
CLASS = 3


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    # what is measured takes a while on a busy machine, and nothing here is about leases
    folder = tmp_path_factory.mktemp("generation")
    (folder / "weights").write_bytes(b"no tensors")
    with running(folder, lease_seconds="60", inception_weights=str(folder / "weights")) as found:
        found.register()
        found.train("painter", **TINY)
        yield found


def _weights(stack: Stack, model: str, number: int) -> dict[str, NDArray[np.float32]]:
    answer = stack.client.get(f"/v1/models/{model}/versions/{number}/weights").raise_for_status()
    found: dict[str, NDArray[np.float32]] = load(answer.content)
    return found


def _of_class(stack: Stack, label: int) -> list[str]:
    path = "/v1/datasets/digits/samples"
    found = stack.client.get(path, params={"split": "train", "label": label, "limit": 1000}).raise_for_status().json()
    assert found["next_cursor"] is None
    return [item["sample_id"] for item in found["items"]]


def _report(stack: Stack, done: Any) -> Any:
    assert done["status"] == "completed", done
    return stack.client.get(f"/v1/evaluations/{done['jobs'][0]['evaluation_id']}").raise_for_status().json()


def _measured(report: Any) -> dict[tuple[str, str | None], Any]:
    return {(metric["name"], metric.get("split")): metric for metric in report["metrics"]}


@pytest.fixture(scope="module")
def erased(stack: Stack) -> tuple[Any, Any]:
    """The requests that took a whole class, and then 16 samples of others, with the weights of all three versions."""
    before = _weights(stack, "painter", 1)
    whole = stack.completed(stack.erase(_of_class(stack, CLASS), method_options={"epochs": 1})["id"])
    after = _weights(stack, "painter", 2)
    ids = [sample_id for label in (0, 1) for sample_id in _of_class(stack, label)[:8]]
    some = stack.completed(
        stack.erase(ids, method="neggrad_plus", method_options={"epochs": 1, "tail_epochs": 1})["id"]
    )
    for moved in (after, _weights(stack, "painter", 3)):
        assert moved.keys() == before.keys()
        for part in ("net.", "ema."):
            assert any(not np.array_equal(before[name], moved[name]) for name in before if name.startswith(part))
    return whole, some


def test_a_whole_class_is_erased_and_what_is_drawn_for_it_is_measured(stack: Stack, erased: tuple[Any, Any]) -> None:
    report = _report(stack, erased[0])
    found = _measured(report)
    assert {
        ("generation_accuracy", "forget"),
        ("generation_accuracy", "retain"),
        ("frechet_distance", "retain"),
    } <= set(found)
    assert found["mia_threshold.loss.auc", None]["n"] > 0
    assert found["fid", "retain"]["verdict"] == "not_applicable"
    assert "not safetensors" in found["fid", "retain"]["extra"]["reason"]
    version = stack.client.get("/v1/models/painter/versions/2").json()
    assert (version["task"], version["role"], version["method"]) == ("generation", "unlearned", "finetune")
    assert stack.client.get("/v1/models/painter/versions/1/weights").status_code == 410


def test_single_samples_are_erased_from_what_the_class_left(stack: Stack, erased: tuple[Any, Any]) -> None:
    found = _measured(_report(stack, erased[1]))
    assert ("generation_accuracy", "forget") not in found
    assert found["generation_drop", "retain"]["n"] > 0
    version = stack.client.get("/v1/models/painter/versions/3").json()
    assert (version["parent"], version["method"]) == (2, "neggrad_plus")


def test_the_certificate_verifies_offline(stack: Stack, erased: tuple[Any, Any], tmp_path: Path) -> None:
    path = f"/v1/deletion-requests/{erased[0]['id']}/certificate"

    def issued() -> bytes | None:
        answer = stack.client.get(path)
        return answer.content if answer.status_code == 200 else None

    (tmp_path / "bundle.json").write_bytes(stack.until(issued))
    with stack.database.reading() as session:
        (tmp_path / "key.txt").write_text(signing_keys.current(session, stack.settings).public_key.hex())
    shutil.copy(verify.__file__, tmp_path / "verify.py")
    command = [sys.executable, "-I", "verify.py", "bundle.json", "--trusted-key", "key.txt"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "painter/2, for generation, by finetune" in found.stdout


def test_an_upload_without_its_average_is_refused_and_one_whose_average_was_never_taken_rejected(
    stack: Stack, erased: tuple[Any, Any]
) -> None:
    weights = _weights(stack, "painter", 3)
    body = {"name": "given", "dataset": "digits", **TINY, "recipe": None}
    stack.client.post("/v1/models", json=body).raise_for_status()

    def answer_to(tensors: dict[str, Any]) -> Any:
        return stack.client.post(
            "/v1/models/given/versions",
            content=save(tensors),
            headers={"Content-Type": "application/vnd.safetensors"},
        )

    def uploaded(tensors: dict[str, Any]) -> Any:
        number = answer_to(tensors).raise_for_status().json()["number"]
        return stack.wait(f"/v1/models/given/versions/{number}", lambda found: found["state"] != "validating")

    without = answer_to({name: tensor for name, tensor in weights.items() if not name.startswith("ema")})
    assert (without.status_code, without.json()["code"]) == (422, "average_missing")
    assert stack.client.get("/v1/models/given/versions").json()["items"] == []
    never = uploaded({**weights, "ema_updates": np.zeros_like(weights["ema_updates"])})
    assert never["state"] in ("rejected", "purged")
    assert "never taken" in str(never["error"])
    whole = uploaded(weights)
    assert (whole["state"], whole["task"]) == ("active", "generation")
