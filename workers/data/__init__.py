"""Readers, one per source, by the name a dataset is registered with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.data import digits, fashion_mnist, npz
from workers.data.source import SourceArrays

READERS: dict[str, Callable[[Mapping[str, Any], Sequence[Path]], SourceArrays]] = {
    "sklearn:digits": digits.read,
    "torchvision:FashionMNIST": fashion_mnist.read,
    "npz": npz.read,
}


def read(source: Mapping[str, Any], *, roots: Sequence[Path] = ()) -> SourceArrays:
    """Read and check a source, whose files must lie inside one of the roots. Raises DataError."""
    return READERS[source["source"]](source, roots).checked()
