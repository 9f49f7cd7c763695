"""scikit-learn's digits: 1,797 real images of 8×8, shipped with the library. IDs are ``digits/<index>``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workers.data.source import SourceArrays, subset


def read(source: Mapping[str, Any], _roots: Sequence[Path] = ()) -> SourceArrays:
    """Return all digits as one train split; grey values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    count = len(images)
    arrays = SourceArrays(
        sample_ids=[f"digits/{i:04d}" for i in range(count)],
        images=images,
        labels=bunch.target.astype(np.int64),
        splits=["train"] * count,
    )
    return subset(arrays, source.get("subset"))
