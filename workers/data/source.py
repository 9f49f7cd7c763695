"""What every reader returns, and the checks that every source must pass."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 1000
MAX_ID_LENGTH = 512
# UTF-8 has no half surrogate pairs, PostgreSQL no NUL.
_UNSTORABLE = re.compile("[\\x00\\ud800-\\udfff]")
SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {"val": "validation", "valid": "validation"}
MAX_UNPACKED_BYTES = 16 * 2**30


class DataError(ValueError):
    """The source cannot be used. ``code`` is stable; the message says what to do and names no sample."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceArrays:
    """A decoded source: images uint8 (N, C, H, W), labels int64 (N,), ids and splits as lists of N strings."""

    sample_ids: list[str]
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    splits: list[str]

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def digest(self) -> str:
        """Return the SHA-256 over ids, splits, labels and pixels."""
        hasher = hashlib.sha256(repr(self.images.shape).encode())
        for text in (*self.sample_ids, *self.splits):
            hasher.update(len(text).to_bytes(4, "big") + text.encode())
        hasher.update(np.ascontiguousarray(self.labels).tobytes())
        hasher.update(np.ascontiguousarray(self.images).data)
        return hasher.hexdigest()

    def take(self, index: NDArray[np.int64]) -> "SourceArrays":
        return replace(
            self,
            sample_ids=[self.sample_ids[i] for i in index],
            images=self.images[index],
            labels=self.labels[index],
            splits=[self.splits[i] for i in index],
        )

    def checked(self) -> "SourceArrays":
        """Return itself. Raises DataError naming every kind of fault, never a sample."""
        faults = [text for text, wrong in self._checks() if wrong]
        if faults:
            raise DataError("invalid_dataset", "The source cannot be indexed: " + "; ".join(faults) + ".")
        return self

    def _checks(self) -> list[tuple[str, bool]]:
        count = len(self)
        lengths = {count, len(self.images), len(self.labels), len(self.splits)}
        if count == 0 or len(lengths) != 1:
            return [("it is empty, or its arrays differ in length", True)]
        low, high = int(self.labels.min()), int(self.labels.max())
        trained = {label for label, split in zip(self.labels.tolist(), self.splits, strict=True) if split == "train"}
        return [
            ("images must be (N, H, W) or (N, H, W, C) with C of 1 to 4", self.images.ndim != 4),
            (f"labels must be 0 to {MAX_CLASSES - 1}", low < 0 or high >= MAX_CLASSES),
            ("the train split must have two classes or more", len(trained) == 1),
            ("a sample ID comes twice", len(set(self.sample_ids)) != count),
            (
                f"sample IDs must have 1 to {MAX_ID_LENGTH} characters",
                any(not 0 < len(sample_id) <= MAX_ID_LENGTH for sample_id in self.sample_ids),
            ),
            (
                "sample IDs must be Unicode text without NUL and without half a surrogate pair",
                any(map(_UNSTORABLE.search, self.sample_ids)),
            ),
            (f"split must be one of {', '.join(SPLITS)}", not set(self.splits) <= set(SPLITS)),
            ("no sample is in the train split", "train" not in self.splits),
        ]


def subset(arrays: SourceArrays, wanted: Mapping[str, Any] | None) -> SourceArrays:
    """Return the seeded, class-balanced part that a registration asks for; order is kept."""
    return arrays.take(subset_positions(arrays.labels, arrays.splits, wanted)) if wanted else arrays


def subset_positions(
    labels: NDArray[np.int64], splits: Sequence[str], wanted: Mapping[str, Any] | None
) -> NDArray[np.int64]:
    """Return where the samples of that part are, ascending, so that a reader need decode no others."""
    if not wanted:
        return np.arange(len(labels))
    generator = np.random.default_rng(int(wanted.get("seed", 0)))
    of = np.array(splits)
    kept = []
    for split in SPLITS:
        index = np.flatnonzero(of == split)
        count = wanted.get(split)
        kept.append(index if count is None else _balanced(index, labels[index], int(count), generator))
    return np.sort(np.concatenate(kept))


def _balanced(
    index: NDArray[np.int64], labels: NDArray[np.int64], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    if count > len(index):
        raise DataError("subset_too_large", f"The subset asks for {count} samples of a split that has {len(index)}.")
    shuffled = generator.permutation(len(index))
    # Rank within the class, then by rank: the first `count` hold every class as evenly as it allows.
    rank = np.zeros(len(index), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return index[order[:count]]
