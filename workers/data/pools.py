"""Cuts a dataset into its pools, once, by keyed hash of the sample ID.

train: what models are trained on. selection: what methods may choose with. audit and population: what only
evaluation sees. The key keeps a submitter from choosing ids that land in a pool; cuts are balanced per class.
"""

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.data.source import SourceArrays

TEST_SHARE = 5
SELECTION_SHARE = 10


def cut(arrays: SourceArrays, key: bytes) -> tuple[list[str], list[str]]:
    """Return each sample's split (train, validation, test) and pool (train, selection, audit, population)."""
    split = np.array(arrays.splits, dtype="U16")
    order = _keyed_order(arrays.sample_ids, key)
    if "test" not in arrays.splits:
        split[_share(split, order, arrays.labels, TEST_SHARE)] = "test"
    if "validation" not in arrays.splits:
        split[_share(split, order, arrays.labels, SELECTION_SHARE)] = "validation"
    pool = np.where(split == "train", "train", "selection").astype("U16")
    for label in np.unique(arrays.labels):
        members = order[(split[order] == "test") & (arrays.labels[order] == label)]
        pool[members[0::2]] = "audit"
        pool[members[1::2]] = "population"
    return split.tolist(), pool.tolist()


def _keyed_order(sample_ids: Sequence[str], key: bytes) -> NDArray[np.int64]:
    marks = [hmac.digest(key, sample_id.encode(), "sha256") for sample_id in sample_ids]
    return np.array(sorted(range(len(marks)), key=marks.__getitem__), dtype=np.int64)


def _share(
    split: NDArray[np.str_], order: NDArray[np.int64], labels: NDArray[np.int64], share: int
) -> NDArray[np.int64]:
    """Return the first 1/share of every class's train samples in keyed order; a lone sample stays in train."""
    taken = []
    for label in np.unique(labels):
        members = order[(split[order] == "train") & (labels[order] == label)]
        taken.append(members[: min(-(-len(members) // share), len(members) - 1)] if len(members) else members)
    return np.concatenate(taken)
