"""Carries out an index order in the child: read a source, cut its pools, write its rows. Loads no torch."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workers import data
from workers.data import cache, pools

INDEX_FILE = "index.jsonl"


def index(order: Mapping[str, Any], progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Return digest, counts and image shape; the rows go to a file of the order's folder. Raises DataError."""
    arrays = data.read(order["source"], roots=[Path(root) for root in order["roots"]])
    progress("reading", len(arrays), len(arrays))
    splits, pool = pools.cut(arrays, bytes.fromhex(order["pool_key"]))
    digest = arrays.digest()
    # What is re-indexed has places of its own, which the rows decide; the next job that reads it fills the cache.
    if order["cache"] is not None:
        cache.write(cache.Entry(folder=Path(order["cache"]), scratch=Path(order["out"])), arrays, digest)
    with (Path(order["out"]) / INDEX_FILE).open("w") as file:
        for row in zip(arrays.sample_ids, splits, pool, arrays.labels.tolist(), strict=True):
            file.write(json.dumps(row) + "\n")
    return {
        "digest": digest,
        "num_samples": len(arrays),
        "num_classes": arrays.num_classes,
        "image_shape": list(arrays.images.shape[1:]),
    }
