"""Datasets and uploads through a real worker: large indexes, damaged sources, weights that only it can judge."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from tests.stack import Stack, running
from tests.unit.images import encoded
from workers.pipeline import ModelSpec, build_model

MANY = 60_000
SPEC = ModelSpec(architecture="small_cnn", options={"width": 8}, image_shape=(1, 8, 8), num_classes=2)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, roots: Path) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("datasets"), allowed_roots=str(roots)) as found:
        _npz(roots / "small.npz", 60)
        found.register("small", source="npz", path=str(roots / "small.npz"))
        body = {"dataset": "small", "architecture": "small_cnn", "architecture_options": {"width": 8}}
        found.client.post("/v1/models", json={"name": "up", **body}).raise_for_status()
        yield found


def _npz(path: Path, count: int, **changes: Any) -> None:
    arrays = {
        "sample_id": np.array([f"patient-{i:06d}" for i in range(count)]),
        "image": np.arange(count * 64, dtype=np.uint64).astype(np.uint8).reshape(count, 8, 8),
        "label": np.arange(count) % 2,
        "split": np.full(count, "train"),
    }
    np.savez(path, **{**arrays, **changes})


def _worked_seconds(stack: Stack) -> float:
    """Return the processor time of the worker and its child: what others take of the machine does not count."""
    assert stack.worker is not None
    worker = psutil.Process(stack.worker.pid)
    times = [each.cpu_times() for each in (worker, *worker.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def test_sixty_thousand_ids_are_indexed_in_under_ten_seconds_and_each_is_listed_once(stack: Stack, roots: Path) -> None:
    _npz(roots / "many.npz", MANY)
    before = _worked_seconds(stack)
    dataset = stack.register("many", source="npz", path=str(roots / "many.npz"))
    seconds = _worked_seconds(stack) - before
    assert dataset["state"] == "ready"
    assert dataset["num_samples"] == MANY == sum(dataset["splits"].values())
    assert dataset["splits"]["test"] == MANY // 5
    assert seconds < 10
    params: dict[str, Any] = {"limit": 1000, "split": "validation", "label": 1}
    seen: list[str] = []
    while True:
        page = stack.client.get("/v1/datasets/many/samples", params=params).json()
        seen += [item["sample_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        assert not any(item["sample_id"] in page["next_cursor"] for item in page["items"])
        params["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == dataset["splits"]["validation"] // 2


def test_folders_of_images_are_decoded_as_asked(stack: Stack, roots: Path) -> None:
    for i in range(12):
        path = roots / "photos" / "train" / "ab"[i % 2] / f"patient-{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(i, size=(9 + i, 12)))
    more = {"root": str(roots / "photos"), "decode": {"size": [8, 8], "mode": "grey"}}
    dataset = stack.register("photos", source="imagefolder", **more)
    assert (dataset["state"], dataset["image_shape"], dataset["num_samples"]) == ("ready", [1, 8, 8], 12)
    (roots / "photos/train/a/patient-0.png").write_bytes(b"damaged")
    broken = stack.register("broken", source="imagefolder", **more)
    assert broken["error"]["code"] == "invalid_images"
    assert "patient" not in str(broken["error"])


@pytest.mark.parametrize(
    ("name", "changes", "code"),
    [
        ("objects", {"sample_id": np.array([{"a": 1}] * 60, dtype=object)}, "source_unreadable"),
        ("twice", {"sample_id": np.array(["patient-000001"] * 60)}, "invalid_dataset"),
        ("short", {"label": np.array([0, 1])}, "invalid_dataset"),
        ("zeros", {"label": np.zeros(60, np.int64)}, "invalid_dataset"),
        ("threes", {"label": np.full(60, 3)}, "invalid_dataset"),
        ("one-trained", {"split": np.array(["train", "test"] * 30)}, "invalid_dataset"),
        ("nul", {"sample_id": np.array([f"patient\x00-{i}" for i in range(60)])}, "invalid_dataset"),
        ("surrogate", {"sample_id": np.array([f"patient\udc80-{i}" for i in range(60)])}, "invalid_dataset"),
    ],
)
def test_a_source_that_cannot_be_used_fails_with_a_code_and_no_sample_id(
    stack: Stack, roots: Path, name: str, changes: dict[str, Any], code: str
) -> None:
    _npz(roots / f"{name}.npz", 60, **changes)
    dataset = stack.register(name, source="npz", path=str(roots / f"{name}.npz"))
    assert dataset["state"] == "failed"
    assert dataset["error"]["code"] == code
    assert "patient" not in dataset["error"]["detail"]
    job = stack.client.get(f"/v1/jobs/{dataset['job']['id']}").json()
    assert (job["status"], job["attempts"]) == ("failed", 1), "another try would end the same way"
    answer = stack.client.get(f"/v1/datasets/{name}/samples")
    assert (answer.status_code, answer.json()["code"]) == (409, "dataset_not_ready")
    body = {"dataset": name, "sample_ids": ["patient-000001"]}
    assert stack.client.post("/v1/deletion-requests", json=body).json()["code"] == "dataset_not_ready"


@pytest.mark.parametrize("trick", ["deep", "circle", "long", "sibling"])
def test_tricks_with_paths_open_nothing(stack: Stack, roots: Path, trick: str) -> None:
    (roots / "a").mkdir(exist_ok=True)
    if not (roots / "circle").is_symlink():
        (roots / "circle").symlink_to(roots / "circle")
    (roots.parent / f"{roots.name}-sibling").mkdir(exist_ok=True)
    path = {
        "deep": f"{roots}/a/../../{roots.name}-sibling/x.npz",
        "circle": f"{roots}/circle/x.npz",
        "long": f"{roots}/{'x' * 300}",
        "sibling": f"{roots}-sibling",
    }[trick]
    answer = stack.client.post("/v1/datasets", json={"name": trick, "source": "npz", "path": path})
    assert (answer.status_code, answer.json()["code"]) == (422, "path_not_allowed")
    assert answer.json()["errors"][0]["pointer"] == "/path"
    assert stack.client.get(f"/v1/datasets/{trick}").status_code == 404


def test_what_is_absent_inside_the_roots_is_said_to_be_absent(stack: Stack, roots: Path) -> None:
    path = os.fspath(roots / "none.npz")
    answer = stack.client.post("/v1/datasets", json={"name": "none", "source": "npz", "path": path})
    assert (answer.status_code, answer.json()["code"]) == (422, "path_not_found")


def _upload(stack: Stack, tensors: dict[str, Tensor]) -> httpx.Response:
    headers = {"Content-Type": "application/vnd.safetensors"}
    return stack.client.post("/v1/models/up/versions", content=save(tensors), headers=headers).raise_for_status()


def _judged(stack: Stack, tensors: dict[str, Tensor]) -> Any:
    url = _upload(stack, tensors).headers["location"]
    return stack.wait(url, lambda version: version["state"] != "validating")


def _weights(seed: int) -> dict[str, Tensor]:
    return dict(build_model(SPEC, seed).state_dict())


def test_weights_that_fit_become_active_and_are_served_byte_for_byte(stack: Stack) -> None:
    tensors = _weights(1)
    version = _judged(stack, tensors)
    assert (version["state"], version["origin"], version["error"]) == ("active", "uploaded", None)
    assert stack.client.get(f"/v1/models/up/versions/{version['number']}/weights").content == save(tensors)


@pytest.mark.parametrize(
    ("fault", "told"),
    [("shape", "has shape"), ("nan", "not finite"), ("dtype", "has dtype"), ("name", "missing tensor")],
)
def test_weights_that_do_not_fit_are_rejected_with_the_reason(stack: Stack, fault: str, told: str) -> None:
    tensors = _weights(2)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    if fault == "shape":
        tensors[name] = tensors[name][:1].clone()
    if fault == "nan":
        tensors[name] = tensors[name].clone().fill_(torch.nan)
    if fault == "dtype":
        tensors[name] = tensors[name].double()
    if fault == "name":
        tensors["stranger"] = tensors.pop(name)
    version = _judged(stack, tensors)
    assert version["state"] in ("rejected", "purged")
    assert version["error"]["code"] == "weights_rejected"
    assert any(told in text for text in version["error"]["errors"])
    url = f"/v1/models/up/versions/{version['number']}"
    assert stack.client.get(f"{url}/weights").json()["code"] == "version_rejected"
    stack.wait(url, lambda version: version["state"] == "purged")
    answer = stack.client.get(f"{url}/weights")
    assert (answer.status_code, answer.json()["code"]) == (409, "version_rejected")
    assert _upload(stack, tensors).status_code == 201, "the bytes were never retired; another model may want them"
    assert stack.client.get("/v1/models/up/versions/latest").json()["state"] == "active"


def test_a_registered_file_swapped_for_a_link_out_of_the_roots_is_never_read(
    stack: Stack, roots: Path, tmp_path: Path
) -> None:
    _npz(tmp_path / "outside.npz", 60)
    path = roots / "swapped.npz"
    _npz(path, 60)
    stack.kill_worker()
    stack.client.post("/v1/datasets", json={"name": "swapped", "source": "npz", "path": str(path)}).raise_for_status()
    path.unlink()
    path.symlink_to(tmp_path / "outside.npz")
    stack.start_worker()
    dataset = stack.wait("/v1/datasets/swapped", lambda found: found["state"] != "indexing")
    assert dataset["state"] == "failed"
    assert dataset["error"]["code"] == "path_not_allowed"
    assert str(tmp_path) not in str(dataset["error"])


def test_a_failed_index_can_be_tried_again_and_waited_for_like_the_first(stack: Stack, roots: Path) -> None:
    path = roots / "mended.npz"
    _npz(path, 60, label=np.array([0, 1]))
    dataset = stack.register("mended", source="npz", path=str(path))
    assert dataset["state"] == "failed"
    _npz(path, 60)
    stack.client.post(f"/v1/jobs/{dataset['job']['id']}/retry").raise_for_status()
    dataset = stack.wait("/v1/datasets/mended", lambda found: found["state"] != "indexing")
    assert (dataset["state"], dataset["error"], dataset["num_samples"]) == ("ready", None, 60)
