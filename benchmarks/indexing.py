"""How long indexing takes on SQLite: from the registration's answer to the dataset's state "ready", real worker.

Without an argument: 60,000 generated 8×8 images in an npz. With a folder: Fashion-MNIST's 70,000 from its IDX files.
The worker's child starts during the first, small registration, so loading torch is not counted.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.circumstances import circumstances
from tests.stack import Stack, running

MAX_SECONDS, SAMPLES, SEED = 10.0, 60_000, 0


def main() -> int:
    """Print the figures as JSON; return 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", help="folder with Fashion-MNIST's IDX files")
    root: Path | None = parser.parse_args().root
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        allowed = str(root.resolve() if root else folder)
        with running(folder, allowed_roots=allowed, lease_seconds="30", sweep_seconds="5") as stack:
            stack.register("warm-up")
            figures = _index(stack, _source(folder, root))
    missed = ["indexed in under 10 s per 60,000 ids"] if figures["seconds_per_60000"] > MAX_SECONDS else []
    packages = ("sqlalchemy", "numpy", "celery")
    print(json.dumps({**figures, "targets_missed": missed, "circumstances": circumstances(*packages)}, indent=2))
    return 1 if missed else 0


def _source(folder: Path, root: Path | None) -> dict[str, Any]:
    if root is not None:
        return {"source": "torchvision:FashionMNIST", "root": str(root.resolve())}
    generator = np.random.default_rng(SEED)
    np.savez(
        folder / "tiny.npz",
        sample_id=np.array([f"train/{i}" for i in range(SAMPLES)]),
        image=generator.integers(0, 256, (SAMPLES, 8, 8), dtype=np.uint8),
        label=np.arange(SAMPLES) % 10,
        split=np.full(SAMPLES, "train"),
    )
    return {"source": "npz", "path": str(folder / "tiny.npz")}


def _index(stack: Stack, source: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    dataset = stack.register("measured", **source)
    seconds = time.perf_counter() - started
    if dataset["state"] != "ready":
        raise RuntimeError(f"indexing ended as {dataset}")
    count = dataset["num_samples"]
    per_60000 = round(seconds * 60_000 / count, 2)
    return {"source": source["source"], "samples": count, "seconds": round(seconds, 2), "seconds_per_60000": per_60000}


if __name__ == "__main__":
    raise SystemExit(main())
