"""The warm child keeps nothing of an order that is over: no sample, no weight."""

import gc
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workers import child, data

COUNT = 37


def _order(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return an order to train a small network on images of a shape that nothing else has."""
    generator = np.random.default_rng(0)
    source = {"source": "npz", "path": str(folder / "d.npz")}
    np.savez(
        folder / "d.npz",
        sample_id=np.array([f"x{i}" for i in range(COUNT)]),
        image=generator.integers(1, 256, (COUNT, 11, 13), dtype=np.uint8),
        label=np.arange(COUNT) % 3,
        split=np.array(["train"] * COUNT),
    )
    digest = data.read(source, roots=[folder]).digest()
    return {
        "kind": "train",
        "device": "cpu",
        "out": str(folder),
        "dataset": {
            "source": source,
            "digest": digest,
            "cache": str(folder / "cache"),
            "erased": [],
            "roots": [str(folder)],
        },
        "spec": {
            "architecture": "small_cnn",
            "options": {"width": 5},
            "image_shape": [1, 11, 13],
            "num_classes": 3,
            "recipe": {"epochs": 1, "batch_size": 16},
        },
        "train": list(range(COUNT)),
        **changes,
    }


def _alive() -> list[torch.Tensor]:
    """Return the tensors that could have been read from the dataset, or be weights of the network."""
    # By type: some modules' objects warn when they are asked what they are.
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return [each for each in found if each.shape[-2:] == (11, 13) or each.shape[:1] == (5,)]


@pytest.mark.parametrize(("changes", "ends"), [({}, "done"), ({"train": [COUNT + 5]}, "failed")])
def test_no_sample_and_no_weight_outlives_its_order(tmp_path: Path, changes: dict[str, Any], ends: str) -> None:
    channel, others = io.StringIO(), _alive()  # held here, so that no tensor of the order gets the place of one of them
    child._answer(_order(tmp_path, **changes), child.ParentLine(channel))
    assert json.loads(channel.getvalue().splitlines()[-1])["type"] == ends
    known = {id(each) for each in others}
    assert [tuple(each.shape) for each in _alive() if id(each) not in known] == []
    assert "images.npy" not in Path("/proc/self/maps").read_text(), "nor is the decoded dataset still mapped"
