"""A model trained in shards over HTTP: what a sample touched is trained again, twice in a row, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from tests.stack import Stack, running

RECIPE = {"epochs": 4, "batch_size": 32, "sisa": {"shards": 4, "slices": 2}}


def _weights(stack: Stack, number: int) -> dict[str, NDArray[np.float32]]:
    answer = stack.client.get(f"/v1/models/m/versions/{number}/weights").raise_for_status()
    found: dict[str, NDArray[np.float32]] = load(answer.content)
    return found


def _shards_that_moved(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name.split(".")[1] for name in one if not np.array_equal(one[name], other[name])}


def test_a_sharded_model_forgets_one_sample_at_a_time_by_training_one_shard_again(tmp_path: Path) -> None:
    with running(tmp_path, worker=True) as stack:
        stack.register()
        stack.train(epochs=1, recipe=RECIPE)
        stack.train("plain", epochs=1)
        weights = _weights(stack, 1)
        for number in (2, 3):
            request = stack.erase(stack.ids(1, skip=40 + number), method="sisa", models=["m"])
            done = stack.completed(request["id"])
            assert done["status"] == "completed", done
            version = stack.client.get(f"/v1/models/m/versions/{number}").json()
            assert (version["role"], version["method"]) == ("retrained", "sisa")
            assert [file["name"] for file in version["prepared"]] == ["shard_checkpoints"]
            after = _weights(stack, number)
            assert len(_shards_that_moved(weights, after)) == 1
            weights = after
        stack.wait("/v1/models/m/versions/2", lambda version: version["state"] == "purged")
        body = {"dataset": "digits", "sample_ids": stack.ids(1), "models": ["plain"], "method": "sisa"}
        refused = stack.client.post("/v1/deletion-requests", json=body)
        assert [fault["code"] for fault in refused.json()["errors"]] == ["method_needs_not_met"]
        assert "shards" in refused.json()["errors"][0]["detail"]
